--[[ _settle: seal a queue whose producers have gone, end it when nothing is left, and, having ended it, leave the
  queue downstream, which may end in turn. The only place where a queue ends of itself. ]]

-- Nobody needs what lies aside for calls when all are answered, or none will be: it is the client's that may be dead.
local function drop_aside(i)
  for _, field in ipairs(redis.call('HKEYS', key(i, JOB))) do
    if string.sub(field, 1, 6) == 'aside:' then redis.call('HDEL', key(i, JOB), field) end
  end
end

local function end_queue(i, state)
  set(i, 'state', state)
  set(i, 'ended', now())
  note(i, 'ended', '', {said = state, items = num(i, 'put')})
  if (get(i, 'notify') or '') ~= '' then
    -- Who is to be told of this, and of what, outlives the queue's next epoch: a worker takes it from here.
    local told = {failed = tostring(num(i, 'failed'))}
    for _, field in ipairs({'name', 'state', 'epoch', 'put', 'done', 'dead', 'cancelled', 'created', 'ended', 'notify'}) do
      told[field] = tostring(get(i, field))
    end
    local records, lost = redis.call('HGETALL', key(i, PRODUCERS)), {}
    for at = 1, #records, 2 do
      if string.find(records[at + 1], ' lost$') then lost[#lost + 1] = records[at] end
    end
    told.lost = table.concat(lost, ' ')
    redis.call('HSET', key(i, JOB), 'tells', 1, 'tell:' .. told.name .. ':' .. told.epoch, cjson.encode(told))
  end
  if FLOW then
    if get(i, 'ordered') == '1' then open_gate(i, OUT) end
    say()
  end
  redis.call('XADD', key(i, RESULTS), '*', 'end', state)
  redis.call('PUBLISH', key(i, RESULTS), state)
  ring(i, num(i, 'waiting'))
  ring_producers(i)
  redis.call('UNLINK', key(i, CHUNKS), key(i, READY), key(i, DELAYED), key(i, TICKETS), key(i, HELD), key(i, LEASES), key(i, GATE))
  if get(i, 'style') == 'call' then drop_aside(i) end
  set(i, 'holding', 0)
  set(i, 'waiting', 0)
  set(i, 'rung', 0)
  set(i, 'suspects', 0)
  set(i, 'alone', '')
  save()
  for _, part in ipairs({META, PRODUCERS, RESULTS, DEAD}) do redis.call('PEXPIRE', key(i, part), num(i, 'ttl')) end
  if redis.call('HINCRBY', key(i, JOB), 'open', -1) <= 0 then
    redis.call('PEXPIRE', key(i, JOB), num(i, 'ttl'))
    at_reply[#at_reply + 1] = function()  -- when what happened last is written
      for _, part in ipairs({EVENTS, FAILURES}) do redis.call('PEXPIRE', key(1, part), num(i, 'ttl')) end
    end
  end
end

-- Nothing more may come: what waited for that may be claimed now.
local function wake(i)
  if not FLOW or not get(i, 'rule') then return end
  woken[i] = woken[i] or 0
  ring(i, num(i, 'waiting'))
end

local function depart(i, producer, how)
  local record = redis.call('HGET', key(i, PRODUCERS), producer)
  if not record then return false end
  local index, epoch, seq, items, state = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
  if state ~= 'live' and state ~= 'absent' then return false end
  redis.call('HSET', key(i, PRODUCERS), producer, table.concat({index, epoch, seq, items, how}, ' '))
  redis.call('ZREM', key(i, LEASES), producer)
  add(i, 'live', -1)
  if string.sub(producer, 1, 6) == 'stage:' then
    add(i, 'stages', -1)
    if FLOW and num(i, 'stages') == 0 and get(i, 'gated') == '1' then open_gate(i, INTO) end
    wake(i)
  end
  if how == 'lost' then add(i, 'lost', 1) end
  return true
end

-- A producer fell silent, or failed. Gives whether that is news. One that is waited for keeps its passed deadline,
-- which tells since when it has been silent.
local function lose(i, producer)
  if get(i, 'sealed') then return depart(i, producer, 'left') end  -- nothing more of it was to come
  if get(i, 'on_lost') ~= 'wait' then return depart(i, producer, 'lost') end
  local record = redis.call('HGET', key(i, PRODUCERS), producer)
  if not string.find(record, ' live$') then return false end
  redis.call('HSET', key(i, PRODUCERS), producer, (string.gsub(record, '%a+$', 'absent')))
  return true
end

local function settle(i)
  if changed[i] and changed[i].leased == 0 and num(i, 'ready') + num(i, 'delayed') == 0 then
    redis.call('PUBLISH', key(i, RESULTS), 'idle')  -- all is done, for now: JoinableQueue.join()
  end
  while i <= DEPTH do
    if get(i, 'state') == 'OPEN' and num(i, 'live') == 0 and num(i, 'come') >= num(i, 'expected') then
      set(i, 'state', 'SEALED')
      wake(i)
    end
    if get(i, 'state') ~= 'SEALED' or num(i, 'ready') + num(i, 'leased') + num(i, 'delayed') > 0 then return end
    if num(i, 'stages') > 0 then return end  -- seal() shuts out the producers that put, not the outputs of a stage
    local final = 'DRAINED'
    if num(i, 'lost') > 0 and get(i, 'on_lost') ~= 'ignore' then final = 'INCOMPLETE' end
    end_queue(i, final)
    if i < DEPTH then depart(i + 1, 'stage:' .. get(i, 'name'), final == 'DRAINED' and 'left' or 'lost') end
    i = i + 1
  end
end
