#!lua flags=allow-oom
--[[ disband: break a barrier, so that all who wait at it, or will, fail; or reset it.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] abort or reset
  ARGV[6] a party that waits no longer, which breaks it unless it has passed; "": whoever
  Returns {1 OK} | {0 NOTHING, its number} the party has passed ]]
--@include _shared
local answered = known()
if answered then return answered end
local passed = ARGV[6] ~= '' and redis.call('HGET', KEYS[2], 'passed:' .. ARGV[6])
if passed then return reply({NOTHING, tonumber(passed)}) end
redis.call('UNLINK', KEYS[3])
if ARGV[5] == 'reset' then
  redis.call('HDEL', KEYS[1], 'broken')
else
  redis.call('HSET', KEYS[1], 'broken', '1')
end
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('PUBLISH', KEYS[1], 'broken')
return reply({OK})
