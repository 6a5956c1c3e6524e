#!lua flags=allow-oom
--[[ count: add to a counter, or set it.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] add, set, or start (set where there is none)
  ARGV[6] an int
  Returns {1 OK, what it is now, in decimals} ]]
--@include _shared
local answered = known()
if answered then return answered end
if ARGV[5] == 'add' then
  redis.call('HINCRBY', KEYS[1], 'count', ARGV[6])
elseif ARGV[5] == 'set' then
  redis.call('HSET', KEYS[1], 'count', ARGV[6])
else
  redis.call('HSETNX', KEYS[1], 'count', ARGV[6])
end
return reply({OK, redis.call('HGET', KEYS[1], 'count')})
