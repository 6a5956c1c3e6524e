#!lua flags=allow-oom
--[[ take: remove from a dict: a field, the last one, or all.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] field, last or all   ARGV[6] field
  Returns {1 OK, field, value} | {1 OK} all | {-3 UNKNOWN} there is none ]]
--@include _shared
local answered = known()
if answered then return answered end
if ARGV[5] == 'all' then
  redis.call('UNLINK', KEYS[6], KEYS[7])
  return reply({OK})
end
local field = ARGV[5] == 'field' and ARGV[6] or redis.call('ZRANGE', KEYS[7], -1, -1)[1]
local there = field and redis.call('HGET', KEYS[6], field)
if not there then return reply({UNKNOWN}) end
redis.call('HDEL', KEYS[6], field)
redis.call('ZREM', KEYS[7], field)
return reply({OK, field, there})
