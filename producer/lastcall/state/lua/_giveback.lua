--[[ _giveback: what a ticket held becomes ready again, in front. After a crash each chunk counts one try more; from the
  second crash on a chunk is halved, so that the item which kills its slot comes to stand alone, and alone it becomes a
  dead letter at `crash_limit` tries. ]]
local function giveback(i, ticket, crashed, processed)
  local held = redis.call('HGET', key(i, HELD), ticket)
  redis.call('ZREM', key(i, TICKETS), ticket)
  if not held then return 0 end
  redis.call('HDEL', key(i, HELD), ticket)
  local ids = {}
  for id in string.gmatch(held, ' (%S+) %d+ %d+') do ids[#ids + 1] = id end
  if #ids == 0 then return 0 end
  add(i, 'holding', -1)
  local returned = 0
  local function ready_again(root, start, n, tries, payload, id)
    id = id or root .. '/' .. start .. ':' .. (start + n)
    redis.call('HSET', key(i, CHUNKS), id, struct.pack(HEADER, n, start, tries) .. payload)
    redis.call('LPUSH', key(i, READY), id)
    add(i, 'ready', n)
    returned = returned + 1
  end
  for at = #ids, 1, -1 do
    local id = ids[at]
    local value = redis.call('HGET', key(i, CHUNKS), id)
    local n, start, tries = struct.unpack(HEADER, value)
    local payload = string.sub(value, 11)
    local root = string.match(id, '^[^/]+')
    redis.call('HDEL', key(i, CHUNKS), id)
    add(i, 'leased', -n)
    if crashed then tries = tries + 1 end
    if at == 1 and processed > 0 then
      processed = math.min(processed, n)
      add(i, 'done', processed)
      start, n = start + processed, n - processed
      id = root .. '/' .. start .. ':' .. (start + n)
    end
    if n == 0 then
      add(i, 'bytes', -#payload)
    elseif crashed and n == 1 and tries >= num(i, 'crash_limit') then
      add(i, 'dead', 1)
      add(i, 'bytes', -#payload)
      redis.call('HSET', key(i, DEAD), root .. '#' .. start, 'L' .. struct.pack(HEADER, n, start, tries) .. payload)
      if get(i, 'results') ~= 'discard' then
        redis.call('XADD', key(i, RESULTS), '*', id, 'X' .. tries)
        if get(i, 'results') == 'once' then add(i, 'unread', 1) end
      end
    elseif crashed and n > 1 and tries >= 2 then
      local half = math.floor(n / 2)
      add(i, 'bytes', #payload)
      ready_again(root, start + half, n - half, 1, payload)
      ready_again(root, start, half, 1, payload)
    else
      ready_again(root, start, n, tries, payload, id)
    end
  end
  ring(i, returned)
  ring_producers(i)
  return returned
end
