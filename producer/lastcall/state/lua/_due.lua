--[[ _due: chunks whose delay is over become ready. ]]
local function due(i)
  if num(i, 'delayed') == 0 then return 0 end
  local ids = redis.call('ZRANGEBYSCORE', key(i, DELAYED), '-inf', now(), 'LIMIT', 0, 1000)
  for _, id in ipairs(ids) do
    local counts = {unpack_chunk(redis.call('HGET', key(i, CHUNKS), id))}
    local n = counts[1]
    if is_suspect(i, counts) then add(i, 'suspects', 1) end
    redis.call('ZREM', key(i, DELAYED), id)
    redis.call('RPUSH', key(i, READY), id)
    add(i, 'delayed', -n)
    add(i, 'ready', n)
  end
  return #ids
end

-- In how many ms the next one's is, 0 where there is none.
local function due_in(i)
  if num(i, 'delayed') == 0 then return 0 end
  local first = redis.call('ZRANGE', key(i, DELAYED), 0, 0, 'WITHSCORES')
  return first[2] and math.max(1, first[2] - now()) or 0
end
