#!lua
--[[ hold: take one of the permits of a lock or a semaphore, if one is free; those of holders that fell silent are.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] holder   ARGV[6] lease in ms
  ARGV[7] permits at first   ARGV[8] who it is, in words   ARGV[9] 1: it will wait at the bell
  Returns {1 OK, fencing token} | {0 NOTHING, ms until the first lease ends, the last token, who holds it} ]]
--@include _shared
local answered = same_kind()
if answered then return answered end
local at = now()
local freed = sweep(at)
local permits = tonumber(redis.call('HGET', KEYS[1], 'permits') or ARGV[7])
local held = redis.call('HGET', KEYS[4], ARGV[5])
if held then
  redis.call('ZADD', KEYS[3], at + ARGV[6], ARGV[5])
  return {OK, tonumber(string.match(held, '^(%d+) '))}
end
local last = tonumber(redis.call('HGET', KEYS[1], 'token') or '0')
local taken = redis.call('ZCARD', KEYS[3])
if taken >= permits then
  if ARGV[9] == '1' then redis.call('HINCRBY', KEYS[1], 'waiting', 1) end
  local first = redis.call('ZRANGE', KEYS[3], 0, 0, 'WITHSCORES')
  lasting()
  if not first[1] then return {NOTHING, tonumber(ARGV[6]), last, ''} end
  return {NOTHING, first[2] - at, last, string.match(redis.call('HGET', KEYS[4], first[1]) or ' ', '^%d* (.*)$')}
end
-- By the clock, in microseconds, so that tokens grow also where the thing had expired or was removed meanwhile.
local time = redis.call('TIME')
local token = math.max(last + 1, time[1] * 1000000 + time[2])
redis.call('HSET', KEYS[1], 'token', string.format('%.0f', token))
redis.call('ZADD', KEYS[3], at + ARGV[6], ARGV[5])
redis.call('HSET', KEYS[4], ARGV[5], string.format('%.0f ', token) .. ARGV[8])
ring(math.min(freed, permits - taken) - 1)
lasting()
return {OK, token}
