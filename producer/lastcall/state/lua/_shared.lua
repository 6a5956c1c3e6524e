--[[ _shared: what the scripts of shared things begin and end with. All of them get
  KEYS[1] meta   KEYS[2] done   KEYS[3] holders   KEYS[4] who   KEYS[5] bell   KEYS[6] fields   KEYS[7] order   KEYS[8] items
  ARGV[1] who changes it   ARGV[2] the number of this change   ARGV[3] ttl in ms   ARGV[4] its kind and options
  A change that is sent again, because its reply was lost, gets the same reply and is not made twice. What is of another
  kind is left alone: the reply is then {MISMATCH, kind}. ]]
local OK, NOTHING, LOST, ENDED, UNKNOWN, MISMATCH = 1, 0, -1, -2, -3, -5
local MOST_DONE, MOST_BELLS = 10000, 256

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function same_kind()
  local kind = redis.call('HGET', KEYS[1], 'kind')
  if kind == ARGV[4] then return end
  if kind then return {MISMATCH, kind} end
  redis.call('HSET', KEYS[1], 'kind', ARGV[4])
end

local function known()
  local last = redis.call('HGET', KEYS[2], ARGV[1])
  if last and string.sub(last, 1, #ARGV[2] + 1) == ARGV[2] .. ' ' then
    return cmsgpack.unpack(string.sub(last, #ARGV[2] + 2))
  end
  return same_kind()
end

local function lasting()
  for at = 1, #KEYS do redis.call('PEXPIRE', KEYS[at], ARGV[3]) end
end

local function reply(values)
  if redis.call('HLEN', KEYS[2]) >= MOST_DONE then redis.call('UNLINK', KEYS[2]) end
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[2] .. ' ' .. cmsgpack.pack(values))
  lasting()
  return values
end

local function ring(n)
  n = math.min(n, tonumber(redis.call('HGET', KEYS[1], 'waiting') or '0'))
  if n <= 0 then return end
  redis.call('HINCRBY', KEYS[1], 'waiting', -n)
  for _ = 1, n do redis.call('RPUSH', KEYS[5], '1') end
  redis.call('LTRIM', KEYS[5], -MOST_BELLS, -1)
end

local function sweep(at)
  local gone = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', at)
  for _, holder in ipairs(gone) do
    redis.call('ZREM', KEYS[3], holder)
    redis.call('HDEL', KEYS[4], holder)
  end
  return #gone
end
