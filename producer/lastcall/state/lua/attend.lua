#!lua flags=allow-oom
--[[ attend: a worker says what it serves, or somebody asks who is there; workers that fell silent are removed.
  KEYS[1] workers HASH   KEYS[2] their deadlines ZSET
  ARGV[1] node, "" to ask only   ARGV[2] what it serves (JSON)   ARGV[3] lease in ms
  Returns {1 OK, what each live worker serves (JSON), ...} ]]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[1] ~= '' then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
end
for _, node in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now)) do
  redis.call('HDEL', KEYS[1], node)
  redis.call('ZREM', KEYS[2], node)
end
local OK = 1
return {OK, unpack(redis.call('HVALS', KEYS[1]))}
