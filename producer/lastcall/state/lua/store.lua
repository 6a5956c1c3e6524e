#!lua
--[[ store: set fields of a dict.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] set, or keep (where there is one already)
  ARGV[6...] field, value for each
  Returns {1 OK} | {0 NOTHING, the value of the first that was kept} ]]
--@include _shared
local answered = known()
if answered then return answered end
local kept
for at = 6, #ARGV, 2 do
  local there = redis.call('HGET', KEYS[6], ARGV[at])
  if there and ARGV[5] == 'keep' then
    kept = kept or there
  else
    redis.call('HSET', KEYS[6], ARGV[at], ARGV[at + 1])
    if not there then redis.call('ZADD', KEYS[7], redis.call('HINCRBY', KEYS[1], 'came', 1), ARGV[at]) end
  end
end
if kept then return reply({NOTHING, kept}) end
return reply({OK})
