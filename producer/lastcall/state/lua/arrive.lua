#!lua
--[[ arrive: come to a barrier, or look whether it has let this party pass; the last one to come lets all pass.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] party   ARGV[6] lease in ms   ARGV[7] parties
  ARGV[8] the generation in which it came; "": it comes now
  Returns {1 OK, its number among those that passed with it} | {0 NOTHING, generation} it waits
        | {-2 ENDED} the barrier is broken, or was reset while this party waited ]]
--@include _shared
local answered = same_kind()
if answered then return answered end
local passed = redis.call('HGET', KEYS[2], 'passed:' .. ARGV[5])
if passed then return {OK, tonumber(passed)} end
if redis.call('HGET', KEYS[1], 'broken') then return {ENDED} end
local at = now()
local generation = redis.call('HGET', KEYS[1], 'generation') or '0'
if ARGV[8] ~= '' and ARGV[8] ~= generation then return {ENDED} end
redis.call('ZADD', KEYS[3], at + ARGV[6], ARGV[5])
sweep(at)  -- whoever died here is waited for again
if redis.call('ZCARD', KEYS[3]) < tonumber(ARGV[7]) then
  lasting()
  return {NOTHING, generation}
end
if redis.call('HLEN', KEYS[2]) >= MOST_DONE then redis.call('UNLINK', KEYS[2]) end
local mine
for number, party in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', '+inf')) do
  if party == ARGV[5] then mine = number - 1 end
  redis.call('HSET', KEYS[2], 'passed:' .. party, number - 1)
end
redis.call('UNLINK', KEYS[3])
redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('PUBLISH', KEYS[1], 'passed')
lasting()
return {OK, mine}
