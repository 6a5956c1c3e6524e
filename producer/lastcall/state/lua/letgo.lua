#!lua flags=allow-oom
--[[ letgo: give a permit back; or make one more.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] holder, or "" for a permit more
  ARGV[6] permits at first
  Returns {1 OK} | {-1 LOST} its lease had run out, and somebody has looked since ]]
--@include _shared
local answered = known()
if answered then return answered end
if ARGV[5] == '' then
  redis.call('HSETNX', KEYS[1], 'permits', ARGV[6])
  redis.call('HINCRBY', KEYS[1], 'permits', 1)
elseif redis.call('ZREM', KEYS[3], ARGV[5]) == 0 then
  return reply({LOST})
end
redis.call('HDEL', KEYS[4], ARGV[5])
ring(1)
return reply({OK})
