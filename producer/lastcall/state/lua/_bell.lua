--[[ _bell: wake who waits. A token is a hint to look again, never data: one too many costs a look, and a
  waiter that misses one looks again by itself when its wait is over. So tokens that nobody takes are bounded. ]]
local MOST_TOKENS = 256
local function toll(i, part, n)
  local tokens = {}
  for at = 1, math.min(n, 4000) do tokens[at] = '1' end
  local length = redis.call('RPUSH', key(i, part), unpack(tokens))
  if length > MOST_TOKENS and length > n then redis.call('LTRIM', key(i, part), -math.max(n, MOST_TOKENS), -1) end
  redis.call('PEXPIRE', key(i, part), 60000)
end

local function ring(i, n)
  local tokens = math.min(num(i, 'waiting'), n)
  if tokens <= 0 then return end
  add(i, 'waiting', -tokens)
  add(i, 'rung', tokens)
  toll(i, BELL, tokens)
end

-- One that waited looks again: it was woken, or its wait was over. Whose token it was makes no difference.
local function looks_again(i)
  if num(i, 'rung') > 0 then
    add(i, 'rung', -1)
  elseif num(i, 'waiting') > 0 then
    add(i, 'waiting', -1)
  end
end

local function ring_producers(i)
  if not get(i, 'bounded') then return end  -- neither this queue nor one upstream of it blocks its producers
  local blocked = tonumber(redis.call('HGET', key(i, JOB), 'blocked') or '0')
  if blocked <= 0 then return end
  redis.call('HSET', key(i, JOB), 'blocked', 0)
  -- Whoever asks again and again without waiting was counted each time.
  toll(i, ROOM, math.min(blocked, MOST_TOKENS))
end
