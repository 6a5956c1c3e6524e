--[[ _due: chunks whose delay is over become ready. ]]
local function due(i)
  if num(i, 'delayed') == 0 then return 0 end
  local ids = redis.call('ZRANGEBYSCORE', key(i, DELAYED), '-inf', now(), 'LIMIT', 0, 1000)
  for _, id in ipairs(ids) do
    local n = struct.unpack(HEADER, redis.call('HGET', key(i, CHUNKS), id))
    redis.call('ZREM', key(i, DELAYED), id)
    redis.call('RPUSH', key(i, READY), id)
    add(i, 'delayed', -n)
    add(i, 'ready', n)
  end
  return #ids
end
