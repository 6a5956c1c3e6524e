--[[ _choose: the chunks that a slot is given, out of those that are ready. ]]
local MOST_CHUNKS, MOST_ITEMS, MOST_BYTES = 256, 10000, 4000000  -- of a gather's hand, but for what a batch needs
local take_items, gather, ration, take_turn
if FLOW and (get(1, 'rule') or in_turn) then  -- each function costs a call a little
  -- Chunks from the front that hold `most` items, or a little more; no more than fit into a hand, but `least` items.
  function take_items(i, most, least)
    local ids, items, bytes, at = {}, 0, 0, 0
    while items < most do
      local some = redis.call('LRANGE', key(i, READY), at, at + 99)
      if #some == 0 then break end
      local values = redis.call('HMGET', key(i, CHUNKS), unpack(some))
      for number, id in ipairs(some) do
        if items >= most or (items >= least and (#ids >= MOST_CHUNKS or bytes >= MOST_BYTES)) then break end
        ids[#ids + 1] = id
        items = items + unpack_chunk(values[number])
        bytes = bytes + #values[number]
      end
      at = at + 100
      if #ids < at then break end
    end
    if #ids > 0 then redis.call('LTRIM', key(i, READY), #ids, -1) end
    return ids, items
  end

  -- For a gather: gives ids, and whether what does not fill a batch is to go, too; of a reduction, whether this is its end.
  function gather(i)
    local ready = num(i, 'ready')
    local size = tonumber(string.match(get(i, 'gather'), '^batch:(%d+):%d+$'))
    if not size then
      local length = redis.call('LLEN', key(i, READY))
      local most = MOST_CHUNKS
      for _, id in ipairs(redis.call('LRANGE', key(i, READY), 0, 1)) do
        local counts = {unpack_chunk(redis.call('HGET', key(i, CHUNKS), id))}
        if counts[CRASHES] + counts[LOSSES] > 0 then most = 2 end  -- so that the one to blame is found
      end
      local ids = redis.call('LPOP', key(i, READY), math.min(length, most))
      return ids, is_shut(i) and #ids == length
    end
    local rest = ready < size  -- then nothing more comes, or it has waited for long enough
    local full = math.min(math.floor(ready / size), math.max(1, math.floor(MOST_ITEMS / size))) * size
    local ids, items = take_items(i, rest and ready or full, rest and ready or size)
    if items < ready then set(i, 'since', now()) end
    return ids, rest
  end

  -- As many items of the oldest chunk as the rate lets through; what is left of it stays in front.
  function ration(i)
    local most = allowed(i)
    local id = most > 0 and redis.call('LPOP', key(i, READY))
    if not id then return {} end
    local value = redis.call('HGET', key(i, CHUNKS), id)
    local counts = {unpack_chunk(value)}
    local n, start = counts[N], counts[START]
    if n > most then
      local root, payload = string.match(id, '^[^/]+'), string.sub(value, counts[PAYLOAD])
      redis.call('HDEL', key(i, CHUNKS), id)
      id = root .. '/' .. start .. ':' .. (start + most)
      local behind = root .. '/' .. (start + most) .. ':' .. (start + n)
      redis.call('HSET', key(i, CHUNKS), id, pack_chunk(counts_of(counts, most, start), payload),
        behind, pack_chunk(counts_of(counts, n - most, start + most), payload))
      redis.call('LPUSH', key(i, READY), behind)
      add(i, 'bytes', #payload)
      n = most
    end
    set(i, 'rate_due', num(i, 'rate_due') + n * 1000 / get(i, 'rate'))
    return {id}
  end

  -- The chunk for whose outputs those at the next gate wait, so that a slot that waits for them can run it.
  function take_turn(i)
    local j, way = gate_behind(i)
    if not j then return {} end
    local turn = get(j, way == INTO and 'turn' or 'result_turn') or ''
    for _, id in ipairs(redis.call('LRANGE', key(i, READY), 0, 4999)) do
      local path = next_path({unpack_chunk(redis.call('HGET', key(i, CHUNKS), id))}, false)
      if path ~= '' and place_of(path) == turn then
        redis.call('LREM', key(i, READY), 1, id)
        return {id}
      end
    end
    return {}
  end
end
