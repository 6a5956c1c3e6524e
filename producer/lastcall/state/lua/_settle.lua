--[[ _settle: seal a queue whose producers have gone, end it when nothing is left, and, having ended it, leave the
  queue downstream, which may end in turn. The only place where a queue ends of itself. ]]
local function end_queue(i, state)
  set(i, 'state', state)
  set(i, 'ended', now())
  redis.call('XADD', key(i, RESULTS), '*', 'end', state)
  redis.call('PUBLISH', key(i, RESULTS), state)
  ring(i, num(i, 'waiting'))
  ring_producers(i)
  redis.call('UNLINK', key(i, CHUNKS), key(i, READY), key(i, DELAYED), key(i, TICKETS), key(i, HELD), key(i, LEASES))
  set(i, 'holding', 0)
  set(i, 'waiting', 0)
  set(i, 'suspects', 0)
  set(i, 'alone', '')
  save()
  for _, part in ipairs({META, PRODUCERS, RESULTS, DEAD}) do redis.call('PEXPIRE', key(i, part), num(i, 'ttl')) end
  if redis.call('HINCRBY', key(i, JOB), 'open', -1) <= 0 then redis.call('PEXPIRE', key(i, JOB), num(i, 'ttl')) end
end

local function depart(i, producer, how)
  local record = redis.call('HGET', key(i, PRODUCERS), producer)
  if not record then return false end
  local index, epoch, seq, items, state = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
  if state ~= 'live' and state ~= 'absent' then return false end
  redis.call('HSET', key(i, PRODUCERS), producer, table.concat({index, epoch, seq, items, how}, ' '))
  redis.call('ZREM', key(i, LEASES), producer)
  add(i, 'live', -1)
  if string.sub(producer, 1, 6) == 'stage:' then add(i, 'stages', -1) end
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
