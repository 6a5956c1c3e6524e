#!lua
--[[ aside: keep a large part of an argument with its job, for as long as that is kept.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] what it is called   ARGV[2] its bytes
  Returns {1 OK} | {-3 UNKNOWN} ]]
--@include _queue
if not get(1, 'state') then return {UNKNOWN} end  -- the job may have expired: nobody would remove it
redis.call('HSET', key(1, JOB), 'aside:' .. ARGV[1], ARGV[2])
return {OK}
