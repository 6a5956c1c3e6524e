#!lua
--[[ swap: put a value in the place of another, if that is still there.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] field   ARGV[6] value that is expected there
  ARGV[7] value for it
  Returns {1 OK} | {0 NOTHING} there is another | {-3 UNKNOWN} there is none ]]
--@include _shared
local answered = known()
if answered then return answered end
local there = redis.call('HGET', KEYS[6], ARGV[5])
if not there then return reply({UNKNOWN}) end
if there ~= ARGV[6] then return reply({NOTHING}) end
redis.call('HSET', KEYS[6], ARGV[5], ARGV[7])
return reply({OK})
