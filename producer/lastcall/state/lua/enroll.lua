#!lua flags=allow-oom
--[[ enroll: a consumer takes out a ticket of its own, to claim chunks of a queue that has no function.
  KEYS  the queue's (_queue.lua)
  ARGV[1] ticket   ARGV[2] nonce   ARGV[3] lease in ms
  Returns {1 OK} | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
redis.call('ZADD', key(1, TICKETS), now() + ARGV[3], ARGV[1])
redis.call('HSETNX', key(1, HELD), ARGV[1], ARGV[2])
return {OK}
