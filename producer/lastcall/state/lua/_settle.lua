--[[ _settle: seal a queue whose producers have gone, end it when nothing is left, and, having ended it, leave the
  queue downstream, which may end in turn. The only place where a queue ends of itself. ]]
local function end_queue(i, state)
  set(i, 'state', state)
  set(i, 'ended', now())
  redis.call('XADD', key(i, RESULTS), '*', 'end', state)
  redis.call('PUBLISH', key(i, RESULTS), state)
  ring(i, num(i, 'waiting'))
  ring_producers(i)
  redis.call('DEL', key(i, CHUNKS), key(i, READY), key(i, DELAYED), key(i, TICKETS), key(i, HELD), key(i, LEASES))
  set(i, 'holding', 0)
  set(i, 'waiting', 0)
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
  if how == 'lost' then add(i, 'lost', 1) end
  return true
end

local function settle(i)
  while i <= DEPTH do
    if get(i, 'state') == 'OPEN' and num(i, 'live') == 0 and num(i, 'come') >= num(i, 'expected') then
      set(i, 'state', 'SEALED')
    end
    if get(i, 'state') ~= 'SEALED' or num(i, 'ready') + num(i, 'leased') + num(i, 'delayed') > 0 then return end
    local final = 'DRAINED'
    if num(i, 'lost') > 0 and get(i, 'on_lost') ~= 'ignore' then final = 'INCOMPLETE' end
    end_queue(i, final)
    if i < DEPTH then depart(i + 1, 'stage:' .. get(i, 'name'), final == 'DRAINED' and 'left' or 'lost') end
    i = i + 1
  end
end
