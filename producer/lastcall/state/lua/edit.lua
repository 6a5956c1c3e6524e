#!lua
--[[ edit: change a list.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] append (values), set (value), pop, or replace
  (the whole list, by values)   ARGV[6] index, for set and pop (0 or -1); version of the list that is to be replaced
  ARGV[7...] values
  Returns {1 OK, value that was popped} | {1 OK} | {0 NOTHING} another version is there | {-3 UNKNOWN} no such index ]]
--@include _shared
local answered = known()
if answered then return answered end
local length = redis.call('LLEN', KEYS[8])
local popped
if ARGV[5] == 'set' then
  local index = tonumber(ARGV[6])
  if index >= length or index < -length then return reply({UNKNOWN}) end
  redis.call('LSET', KEYS[8], ARGV[6], ARGV[7])
elseif ARGV[5] == 'pop' then
  if length == 0 then return reply({UNKNOWN}) end
  popped = ARGV[6] == '0' and redis.call('LPOP', KEYS[8]) or redis.call('RPOP', KEYS[8])
else
  if ARGV[5] == 'replace' then
    if (redis.call('HGET', KEYS[1], 'version') or '0') ~= ARGV[6] then return reply({NOTHING}) end
    redis.call('UNLINK', KEYS[8])
  end
  for at = 7, #ARGV do redis.call('RPUSH', KEYS[8], ARGV[at]) end
end
redis.call('HINCRBY', KEYS[1], 'version', 1)
return reply({OK, popped})
