--[[ _complete: what a ticket's hand came to. Completing a chunk removes it, appends its outputs downstream and counts
  it; a chunk that is not in the hand was completed before (the reply was lost), and is passed over.
  hand: chunk id -> {items, bytes}. Gives the number of outputs and where what is said of completions ends in ARGV, and
  removes from `hand` what is complete.
  A flow's chunk says what became of each run of its items that are not tried again (`segments`), each of which has a
  path; a gather's, what became of all that it held. ]]
local NEXT, RESULTS_OF_LAST, SELF, ERROR = 'n', 'r', 's', 'e'

-- For the history: arguments and results, sealed as they are, where they are not too large.
local function keep(i, kind, id, data)
  if get(i, 'record') == 'all' and #data <= MOST_BYTES then note_bytes(i, kind, id, data) end
end

local send_part, send_segments, send_gathered
if FLOW then
  -- Where a part of what a segment came to goes. path: its own.
  function send_part(i, way, path, id, n, data)
    if way == NEXT then
      put_out(i, path, n, id, data)
    elseif way == SELF then  -- in front of what is still to be folded
      redis.call('HSET', key(i, CHUNKS), id, pack_chunk({n, 0, 0, 0, 0}, data))
      redis.call('LPUSH', key(i, READY), id)
      add(i, 'put', n)
      add(i, 'ready', n)
      add(i, 'bytes', #data)
    else
      show(i, path, n, id, 'O' .. data)
      keep(i, 'gave', id, data)
    end
  end

  -- Sends what the segments of one completion came to, which begin at ARGV[at]; gives where they end.
  -- settled: items of this completion; gathered: what a gather's came to, of all completions.
  function send_segments(i, held, counts, at, gathered)
    local segments = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, segments do
      local first, past, way, parts = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), ARGV[at + 2], tonumber(ARGV[at + 3])
      at = at + 4
      local path, sent = held and path_of(counts, first, past), held and counts[PARTS]
      for number = 1, parts do
        local id, n, data = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
        at = at + 3
        if held and gathered then
          gathered[#gathered + 1] = {way, id, n, data}
        elseif held and parts + sent == 1 then
          send_part(i, way, path, id, n, data)
        elseif held then
          send_part(i, way, step(path, sent + number - 1, sent + number, number == parts), id, n, data)
        end
      end
      if held and not gathered and parts == 0 then pass(i, sent == 0 and path or step(path, sent, sent + 1, true)) end
    end
    return at
  end

  -- position: outputs' place in the order that begins here; settled: items that they are of.
  function send_gathered(i, gathered, position, settled)
    local parts, number, again = 0, 0, false
    for _, part in ipairs(gathered) do
      if part[1] == SELF then again = true elseif part[1] ~= ERROR then parts = parts + 1 end
    end
    local path = position .. ':' .. (position + settled) .. ':0'
    if get(i, 'gather') == 'reduce' then path = '0:1:0' end  -- it is the only one
    for _, part in ipairs(gathered) do
      local way, id, n, data = unpack(part)
      if way == SELF or way == ERROR then
        send_part(i, way, '', id, n, data)
      else
        number = number + 1
        send_part(i, way, parts == 1 and path or step(path, number - 1, number, number == parts), id, n, data)
      end
    end
    if parts == 0 and not again then pass(i, path) end
  end
end

local function complete(i, hand, took)
  local at = took + 2
  local completed, agains, entry = {}, {}, {}
  local items, done, dead, shown, bytes, outputs, left = 0, 0, 0, 0, 0, 0, 0
  local down = DEPTH > i and get(i + 1, 'state')
  local open = down and not has_ended(down)  -- outputs for a queue that was cancelled go nowhere
  local gathered = FLOW and is_gather(i) and {}
  local position = gathered and num(i, 'done') + num(i, 'dead') + num(i, 'cancelled')
  for _ = 1, tonumber(ARGV[at - 1]) do
    local id = ARGV[at]
    local held = hand[id]
    local counts
    if held then
      hand[id] = nil
      completed[#completed + 1] = id
      items = items + held[1]
      bytes = bytes + held[2]
      done = done + ARGV[at + 1]
      dead = dead + ARGV[at + 2]
      if ARGV[at + 3] ~= '' then
        entry[#entry + 1] = id
        entry[#entry + 1] = 'O' .. ARGV[at + 3]
        shown = shown + ARGV[at + 1] + ARGV[at + 2]
        keep(i, 'gave', id, ARGV[at + 3])
      end
      if FLOW then counts = {unpack_chunk(redis.call('HGET', key(i, CHUNKS), id))} end
    end
    local n_out = tonumber(ARGV[at + 4])
    at = at + 5
    for _ = 1, n_out do
      if held and open then
        redis.call('HSET', key(i + 1, CHUNKS), ARGV[at], pack_chunk({tonumber(ARGV[at + 1]), 0, 0, 0, 0}, ARGV[at + 2]))
        redis.call('RPUSH', key(i + 1, READY), ARGV[at])
        add(i + 1, 'put', tonumber(ARGV[at + 1]))
        add(i + 1, 'ready', tonumber(ARGV[at + 1]))
        add(i + 1, 'bytes', #ARGV[at + 2])
        outputs = outputs + 1
      end
      at = at + 3
    end
    local n_again = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, n_again do
      if held then
        -- One item, to be tried again alone: its index, raises, the delay in ms, its payload, crashes, losses.
        local start = tonumber(ARGV[at])
        local again = string.match(id, '^[^/]+') .. '/' .. start .. ':' .. (start + 1)
        local c = counts_of(counts or {}, 1, start)
        c[CRASHES], c[LOSSES], c[RAISES] = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 1])
        -- Set after what is complete was removed: an item that was alone goes on under the same id.
        agains[#agains + 1] = {again, pack_chunk(c, ARGV[at + 3])}
        redis.call('ZADD', key(i, DELAYED), now() + ARGV[at + 2], again)
        add(i, 'delayed', 1)
        add(i, 'bytes', #ARGV[at + 3])
      end
      at = at + 6
    end
    local n_dead = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, n_dead do
      if held then redis.call('HSET', key(i, DEAD), ARGV[at], 'S' .. ARGV[at + 1]) end
      at = at + 2
    end
    if ARGV[at] ~= '0' then
      at = send_segments(i, held, counts, at, gathered)
    else
      at = at + 1
    end
    local rest, failed, notes = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    at = at + 3
    if held then add(i, 'failed', failed) end
    for _ = 1, notes do
      if held and ARGV[at] == 'done' then
        note_bytes(i, 'done', ARGV[at + 1], ARGV[at + 2])
        if get(i, 'record') == 'all' then
          local value = redis.call('HGET', key(i, CHUNKS), id)
          local _, _, _, _, _, _, _, _, _, payload = unpack_chunk(value)
          keep(i, 'args', id, string.sub(value, payload))
        end
      elseif held then
        note_failure_bytes(i, ARGV[at], ARGV[at + 1], ARGV[at + 2])
      end
      at = at + 3
    end
    if held and rest > 0 then
      -- What did not fill a batch: in front again.
      local value = redis.call('HGET', key(i, CHUNKS), id)
      local past = counts[START] + counts[N]
      local part, payload = string.match(id, '^[^/]+') .. '/' .. (past - rest) .. ':' .. past, string.sub(value, counts[PAYLOAD])
      left = left + rest
      agains[#agains + 1] = {part, pack_chunk(counts_of(counts, rest, past - rest), payload)}
      redis.call('LPUSH', key(i, READY), part)
      add(i, 'ready', rest)
      add(i, 'bytes', #payload)
    end
  end
  if #completed == 0 then return 0, at end
  redis.call('HDEL', key(i, CHUNKS), unpack(completed))
  for _, again in ipairs(agains) do redis.call('HSET', key(i, CHUNKS), again[1], again[2]) end
  if gathered then send_gathered(i, gathered, position, items - left) end
  add(i, 'leased', -items)
  add(i, 'done', done)
  add(i, 'dead', dead)
  add(i, 'bytes', -bytes)
  add(i, 'busy', tonumber(ARGV[took]))
  if #entry > 0 then
    redis.call('XADD', key(i, RESULTS), '*', unpack(entry))
    if get(i, 'results') == 'once' then add(i, 'unread', shown) end
  end
  if outputs > 0 then ring(i + 1, outputs) end
  if FLOW then
    say()
    for j, chunks in pairs(woken) do
      if j > i then ring(j, chunks) end
    end
  end
  ring_producers(i)
  return outputs, at
end
