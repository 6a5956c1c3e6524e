--[[ create: make a queue, or find that it is there and is the same.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] "reopen" to begin a new epoch if the queue has ended, or ""
  ARGV[2] the queue downstream, or ""
  ARGV[3] number of fields that must match if the queue is there; then field, value for each of them;
  then field, value for each default
  Returns {1 OK, state, epoch} | {-5 MISMATCH, field, what is there, what was asked} | {-3 UNKNOWN} no queue downstream
        | {-2 ENDED, state} the queue downstream has ended ]]
--@include _queue
local fixed = tonumber(ARGV[3])
load(1, 'state', 'epoch', 'last_index', 'last_ticket')
local state = get(1, 'state')
local reopen = state and has_ended(state) and ARGV[1] == 'reopen'
if state and not reopen then
  for at = 4, 3 + 2 * fixed, 2 do
    local there = get(1, ARGV[at])
    -- A function is told by its identity: sealed twice, the same one differs.
    if there ~= ARGV[at + 1] and ARGV[at] ~= 'function' then return {MISMATCH, ARGV[at], there or '', ARGV[at + 1]} end
  end
  return {OK, state, num(1, 'epoch')}
end
if ARGV[2] ~= '' then
  local down = DEPTH > 1 and get(2, 'state')
  if not down then return {UNKNOWN} end
  if has_ended(down) then return {ENDED, down} end
end
for part = META, BELL do redis.call('DEL', key(1, part)) end
-- Indices and ticket numbers go on, so that nothing of an earlier epoch is taken for one of this.
local kept = {epoch = num(1, 'epoch') + 1, last_index = num(1, 'last_index'), last_ticket = num(1, 'last_ticket')}
for field, value in pairs(kept) do set(1, field, value) end
for _, field in ipairs({'put', 'done', 'dead', 'cancelled', 'ready', 'leased', 'delayed', 'unread', 'bytes', 'holding',
  'waiting', 'live', 'come', 'lost', 'busy'}) do set(1, field, 0) end
for at = 4, #ARGV, 2 do set(1, ARGV[at], ARGV[at + 1]) end
set(1, 'state', 'NEW')
set(1, 'created', now())
set(1, 'down', ARGV[2])
if num(1, 'maxsize') > 0 or num(1, 'maxbytes') > 0 then
  for i = 1, DEPTH do set(i, 'bounded', 1) end
end
redis.call('HINCRBY', key(1, JOB), 'open', 1)
redis.call('HSET', key(1, JOB), 'queue:' .. get(1, 'name'), num(1, 'epoch'))
redis.call('PERSIST', key(1, JOB))
if ARGV[2] ~= '' then
  -- This stage is a producer of the queue downstream, without a deadline: it leaves in the script that drains it.
  local producer = 'stage:' .. get(1, 'name')
  local was = redis.call('HGET', key(2, PRODUCERS), producer)
  local index = was and string.match(was, '^(%d+)')
  if not was then
    add(2, 'last_index', 1)
    add(2, 'come', 1)
    index = num(2, 'last_index')
  end
  if was and string.match(was, '%a+$') == 'lost' then add(2, 'lost', -1) end
  add(2, 'live', 1)
  redis.call('HSET', key(2, PRODUCERS), producer, index .. ' ' .. num(1, 'epoch') .. ' 0 0 live')
  if get(2, 'state') ~= 'OPEN' then set(2, 'state', 'OPEN') end
  set(1, 'down_index', index)
  set(1, 'down_celery', get(2, 'celery'))
end
return reply(OK, 'NEW', num(1, 'epoch'))
