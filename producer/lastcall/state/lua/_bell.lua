--[[ _bell: wake who waits. A token is a hint to look again, never data: one too many costs a look, and a
  waiter that misses one looks again by itself when its wait is over. ]]
local function ring(i, n)
  local tokens = math.min(num(i, 'waiting'), n)
  if tokens <= 0 then return end
  add(i, 'waiting', -tokens)
  for _ = 1, tokens do redis.call('RPUSH', key(i, BELL), '1') end
  redis.call('PEXPIRE', key(i, BELL), 60000)
end

local function ring_producers(i)
  if not get(i, 'bounded') then return end  -- neither this queue nor one upstream of it blocks its producers
  local blocked = tonumber(redis.call('HGET', key(i, JOB), 'blocked') or '0')
  if blocked <= 0 then return end
  redis.call('HSET', key(i, JOB), 'blocked', 0)
  for _ = 1, blocked do redis.call('RPUSH', key(i, ROOM), '1') end
  redis.call('PEXPIRE', key(i, ROOM), 60000)
end
