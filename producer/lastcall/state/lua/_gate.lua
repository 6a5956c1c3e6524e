--[[ _gate: where the order of the source is restored: in front of a queue's ready chunks (`gated`), or of its results
  (`ordered`). What comes before its turn waits; what comes to nothing says so, lest those behind it wait for ever.
  What was given up and is done later all the same finds its turn over, and goes through. ]]
local INTO, OUT = 'e', 'r'
local woken = {}  -- queues that have more to be claimed than before
local told = {}  -- results that are to be appended
local enter, tell, say, let, through, open_gate, gate_behind, pass_gates, pass, show, put_out
if FLOW then  -- each function costs a call a little
  function enter(i, id, n)
    redis.call('RPUSH', key(i, READY), id)
    if is_gather(i) and num(i, 'ready') == 0 then set(i, 'since', now()) end
    add(i, 'ready', n)
    woken[i] = (woken[i] or 0) + 1
  end

  function tell(i, id, data)
    told[i] = told[i] or {}
    table.insert(told[i], id)
    table.insert(told[i], data)
  end
  -- Append the results that are told; together, where they came together.
  function say()
    for i, entry in pairs(told) do
      for at = 1, #entry, 2000 do redis.call('XADD', key(i, RESULTS), '*', unpack(entry, at, math.min(at + 1999, #entry))) end
    end
    told = {}
  end

  function let(i, way, id, n, data)
    if way == INTO and n > 0 then enter(i, id, n) end
    if way == OUT and n > 0 then tell(i, id, data) end
  end

  -- n: items; 0 for something that came to nothing.
  function through(i, way, path, n, id, data)
    local field = way == INTO and 'turn' or 'result_turn'
    local turn = get(i, field) or ''
    local place = place_of(path)
    if path == '' or turn == 'open' or is_before(place, turn) then return let(i, way, id, n, data) end
    if place ~= turn then
      redis.call('HSET', key(i, GATE), way .. place, table.concat({follows(path), n, id, data}, ' '))
      if way == INTO then add(i, 'delayed', n) end
      return
    end
    let(i, way, id, n, data)
    turn = follows(path)
    local waiting = redis.call('HGET', key(i, GATE), way .. turn)
    while waiting do
      redis.call('HDEL', key(i, GATE), way .. turn)
      turn, n, id, data = string.match(waiting, '^(%S+) (%d+) (%S*) (.*)$')
      n = tonumber(n)
      if way == INTO then add(i, 'delayed', -n) end
      let(i, way, id, n, data)
      waiting = redis.call('HGET', key(i, GATE), way .. turn)
    end
    set(i, field, turn)
  end

  -- Nothing more comes that those who wait could wait for. for_good: nor does order matter any more.
  function open_gate(i, way, for_good)
    local waiting, places = {}, {}
    local all = redis.call('HGETALL', key(i, GATE))
    for at = 1, #all, 2 do
      if string.sub(all[at], 1, 1) == way then
        waiting[all[at]] = all[at + 1]
        places[#places + 1] = all[at]
      end
    end
    table.sort(places, is_before)
    for _, place in ipairs(places) do
      local _, n, id, data = string.match(waiting[place], '^(%S+) (%d+) (%S*) (.*)$')
      redis.call('HDEL', key(i, GATE), place)
      if way == INTO then add(i, 'delayed', -n) end
      let(i, way, id, tonumber(n), data)
    end
    if for_good then set(i, way == INTO and 'turn' or 'result_turn', 'open') end
  end

  -- The next gate behind a queue's function; none where a gather without one comes first, which begins a new order.
  function gate_behind(i)
    for j = i + 1, DEPTH do
      if get(j, 'gated') == '1' then return j, INTO end
      if is_gather(j) then return nil end
    end
    if get(DEPTH, 'ordered') == '1' then return DEPTH, OUT end
  end

  -- Whether the order of the source still holds in the last queue's results; to the gates before that it tells that
  -- something came to nothing for them.
  function pass_gates(i, path)
    for j = i + 1, DEPTH do
      local state = get(j, 'state')
      if state and get(j, 'gated') == '1' and not has_ended(state) then through(j, INTO, path, 0, '', '') end
      if is_gather(j) then return false end
    end
    return get(DEPTH, 'ordered') == '1'
  end
  function pass(i, path)
    if path == '' then return end
    local ordered = pass_gates(i, path)
    if ordered and not has_ended(get(DEPTH, 'state')) then through(DEPTH, OUT, path, 0, '', '') end
  end

  -- A result of the last queue: an output of it, or an error of any.
  function show(i, path, n, id, data)
    if has_ended(get(DEPTH, 'state')) or get(DEPTH, 'results') == 'discard' then return pass(i, path) end
    if path == '' or not pass_gates(i, path) then path = '' end
    through(DEPTH, OUT, path, n, id, data)
    if get(DEPTH, 'results') == 'once' then add(DEPTH, 'unread', n) end
  end

  -- An output, for the queue downstream.
  function put_out(i, path, n, id, payload)
    if has_ended(get(i + 1, 'state')) then return end  -- outputs for a queue that was cancelled go nowhere
    if (read[i + 1] or {}).put == nil then load(i + 1, 'put', 'ready', 'bytes', 'waiting', 'gated', 'gather', 'turn') end
    redis.call('HSET', key(i + 1, CHUNKS), id, pack_chunk({n, 0, 0, 0, 0, path ~= '' and n or 0, 0, 0, path}, payload))
    add(i + 1, 'put', n)
    add(i + 1, 'bytes', #payload)
    if get(i + 1, 'gated') == '1' then
      through(i + 1, INTO, path, n, id, '')
    else
      enter(i + 1, id, n)
    end
  end
end
