#!lua
--[[ create: make a queue, or find that it is there and is the same.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] "reopen" to begin a new epoch if the queue has ended, or ""
  ARGV[2] the queue downstream, or ""
  ARGV[3] number of fields that must match if the queue is there; then field, value for each of them;
  then field, value for each default
  Returns {1 OK, state, epoch} | {-5 MISMATCH, field, what is there, what was asked} | {-3 UNKNOWN} no queue downstream
        | {-2 ENDED, state} the queue downstream has ended or is sealed ]]
--@include _queue
local fixed = tonumber(ARGV[3])
load(1, 'state', 'epoch', 'last_index', 'last_ticket', 'last_epoch', 'bounded')
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
local stage, was
for at = 4, #ARGV, 2 do
  if ARGV[at] == 'name' then stage = 'stage:' .. ARGV[at + 1] end
end
if ARGV[2] ~= '' then
  local down = DEPTH > 1 and get(2, 'state')
  if not down then return {UNKNOWN} end
  was = redis.call('HGET', key(2, PRODUCERS), stage)
  -- As in join: a sealed queue takes back one that it gave up, never a new one.
  local given_up = was and string.find(was, ' lost$')
  if has_ended(down) or get(2, 'sealed') or (down == 'SEALED' and not given_up) then return {ENDED, down} end
end
local feeding = {}  -- stages upstream that have not ended: what they put from now on belongs to the new epoch
local records = reopen and redis.call('HGETALL', key(1, PRODUCERS)) or {}
for at = 1, #records, 2 do
  if string.find(records[at], '^stage:') and string.find(records[at + 1], ' live$') then
    feeding[#feeding + 1] = records[at]
    feeding[#feeding + 1] = records[at + 1]
  end
end
for part = META, BELL do redis.call('UNLINK', key(1, part)) end
-- Indices, producers' epochs and ticket numbers go on, so that nothing of an earlier epoch is taken for one of this.
local kept = {epoch = num(1, 'epoch') + 1, last_index = num(1, 'last_index'), last_ticket = num(1, 'last_ticket'),
  last_epoch = num(1, 'last_epoch'), first_index = num(1, 'last_index')}
for field, value in pairs(kept) do set(1, field, value) end
for _, field in ipairs({'put', 'done', 'dead', 'cancelled', 'ready', 'leased', 'delayed', 'unread', 'bytes', 'holding',
  'waiting', 'rung', 'live', 'stages', 'come', 'lost', 'busy', 'suspects'}) do set(1, field, 0) end
for at = 4, #ARGV, 2 do set(1, ARGV[at], ARGV[at + 1]) end
set(1, 'state', 'NEW')
set(1, 'created', now())
set(1, 'down', ARGV[2])
if #feeding > 0 then
  redis.call('HSET', key(1, PRODUCERS), unpack(feeding))
  for _, field in ipairs({'live', 'stages', 'come'}) do set(1, field, #feeding / 2) end
  if get(1, 'bounded') then set(1, 'bounded', 1) end
  set(1, 'state', 'OPEN')
end
local founder = get(1, 'founder') or ''
if founder ~= '' then
  -- The producer that makes it for itself has its lease from the first, lest it dies before it comes: nobody else would.
  add(1, 'last_index', 1)
  add(1, 'last_epoch', 1)
  add(1, 'come', 1)
  add(1, 'live', 1)
  redis.call('HSET', key(1, PRODUCERS), founder, num(1, 'last_index') .. ' ' .. num(1, 'last_epoch') .. ' 0 0 live')
  redis.call('ZADD', key(1, LEASES), now() + num(1, 'lease'), founder)
  set(1, 'state', 'OPEN')
end
if num(1, 'maxsize') > 0 or num(1, 'maxbytes') > 0 then
  for i = 1, DEPTH do
    if get(i, 'state') then set(i, 'bounded', 1) end  -- not one that has expired
  end
end
if redis.call('HINCRBY', key(1, JOB), 'open', 1) == 1 and reopen then  -- the job begins anew, and so does its history
  redis.call('UNLINK', key(1, EVENTS), key(1, FAILURES))
  redis.call('HDEL', key(1, JOB), 'usual', 'failures')
end
redis.call('HSET', key(1, JOB), 'queue:' .. get(1, 'name'), num(1, 'epoch'))
for _, part in ipairs({JOB, EVENTS, FAILURES}) do redis.call('PERSIST', key(1, part)) end
if ARGV[2] ~= '' then
  -- This stage is a producer of the queue downstream, without a deadline: it leaves in the script that drains it.
  local index = was and string.match(was, '^(%d+)')
  if not was then
    add(2, 'last_index', 1)
    add(2, 'come', 1)
    index = num(2, 'last_index')
  end
  if was and string.find(was, ' lost$') then add(2, 'lost', -1) end
  add(2, 'live', 1)
  add(2, 'stages', 1)
  redis.call('HSET', key(2, PRODUCERS), stage, index .. ' ' .. num(1, 'epoch') .. ' 0 0 live')
  if get(2, 'state') ~= 'OPEN' then set(2, 'state', 'OPEN') end
  set(1, 'down_index', index)
  set(1, 'down_celery', get(2, 'celery'))
end
return reply(OK, get(1, 'state'), num(1, 'epoch'))
