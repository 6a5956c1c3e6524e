#!lua flags=allow-oom
--[[ renew: put off the deadlines of tickets and of producers' leases.
  KEYS  the queue's (_queue.lua)
  ARGV[1] tickets' lease in ms   ARGV[2] tickets n, then n tickets, then producer, epoch for each producer
  Returns {1 OK, tickets that are not valid any more, producers whose lease was lost} | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
load(1, 'state', 'lease')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
local n = tonumber(ARGV[2])
local gone, lost = {}, {}
for at = 3, 2 + n do
  if redis.call('ZSCORE', key(1, TICKETS), ARGV[at]) then
    redis.call('ZADD', key(1, TICKETS), now() + ARGV[1], ARGV[at])
  else
    gone[#gone + 1] = ARGV[at]
  end
end
for at = 3 + n, #ARGV, 2 do
  local record = redis.call('HGET', key(1, PRODUCERS), ARGV[at]) or '0 0 0 0 left'
  local index, epoch, seq, items, how = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
  if epoch == ARGV[at + 1] and (how == 'live' or how == 'absent') then
    redis.call('ZADD', key(1, LEASES), now() + num(1, 'lease'), ARGV[at])
    if how == 'absent' then
      redis.call('HSET', key(1, PRODUCERS), ARGV[at], table.concat({index, epoch, seq, items, 'live'}, ' '))
    end
  elseif epoch ~= ARGV[at + 1] or how == 'lost' then
    lost[#lost + 1] = ARGV[at]
  end
end
return {OK, gone, lost}
