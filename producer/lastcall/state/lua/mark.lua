#!lua flags=allow-oom
--[[ mark: set or clear an event, and tell who waits that it is set.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] 1: set; 0: clear
  Returns {1 OK} ]]
--@include _shared
local answered = known()
if answered then return answered end
redis.call('HSET', KEYS[1], 'set', ARGV[5])
if ARGV[5] == '1' then redis.call('PUBLISH', KEYS[1], 'set') end
return reply({OK})
