#!lua
--[[ revive: run dead letters again. A queue that has ended goes on in a new epoch, with its counters and results, and so
  do those downstream of it, whose producer it is again; they end when the letters are through.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] cap on tickets   ARGV[2...] items
  A letter that is not there any more is passed over: somebody else has revived it, or this was sent before.
  Returns {1 OK, letters revived, tickets to send} | {-2 ENDED, state, number of the queue} one was cancelled
        | {-3 UNKNOWN, number of the queue} one is not there any more ]]
--@include _queue
--@include _bell
--@include _rules
--@include _mint
for i = 1, DEPTH do
  local state = get(i, 'state')
  if not state then return {UNKNOWN, i} end
  if state == 'CANCELLED' then return {ENDED, state, i} end
end
local found, records = {}, {}
for at = 2, #ARGV do
  local item = ARGV[at]
  local record = not records[item] and redis.call('HGET', key(1, DEAD), item)
  if record then
    found[#found + 1] = item
    records[item] = record
  end
end
if #found == 0 then return {OK, 0, {}} end

local function go_on(i)
  local last = redis.call('XREVRANGE', key(i, RESULTS), '+', '-', 'COUNT', 1)[1]
  if last and last[2][1] == 'end' then redis.call('XDEL', key(i, RESULTS), last[1]) end
  redis.call('HDEL', key(i, META), 'ended')
  set(i, 'epoch', num(i, 'epoch') + 1)
  set(i, 'state', 'SEALED')
  set(i, 'bytes', 0)
  for _, part in ipairs({META, PRODUCERS, RESULTS, DEAD, JOB, EVENTS, FAILURES}) do redis.call('PERSIST', key(i, part)) end
  redis.call('HINCRBY', key(i, JOB), 'open', 1)
  redis.call('HSET', key(i, JOB), 'queue:' .. get(i, 'name'), num(i, 'epoch'))
end
for i = DEPTH, 1, -1 do
  if has_ended(get(i, 'state')) then
    go_on(i)
    if i < DEPTH then  -- that one has begun to go on before this, or has not ended
      local stage = 'stage:' .. get(i, 'name')
      local was = redis.call('HGET', key(i + 1, PRODUCERS), stage)
      if not was then  -- that one was begun anew since
        add(i + 1, 'last_index', 1)
        add(i + 1, 'come', 1)
        was = num(i + 1, 'last_index') .. ' 0 0 0 left'
      end
      local index, _, seq, items, how = string.match(was, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
      set(i, 'down_index', index)
      redis.call('HSET', key(i + 1, PRODUCERS), stage, table.concat({index, num(i, 'epoch'), seq, items, 'live'}, ' '))
      add(i + 1, 'live', 1)
      add(i + 1, 'stages', 1)
      if how == 'lost' then add(i + 1, 'lost', -1) end
      if not get(i + 1, 'sealed') then set(i + 1, 'state', 'OPEN') end
    end
  end
end
for _, item in ipairs(found) do
  local chunk = string.sub(records[item], 6 + struct.unpack('<I4', records[item], 2))
  local root, start = string.match(item, '^(.*)#(%d+)$')
  local counts = counts_of({unpack_chunk(chunk)}, 1, tonumber(start))
  counts[CRASHES], counts[LOSSES], counts[RAISES] = 0, 0, 0
  local id, payload = root .. '/' .. start .. ':' .. (start + 1), string.sub(chunk, counts[PAYLOAD])
  redis.call('HDEL', key(1, DEAD), item)
  redis.call('HSET', key(1, CHUNKS), id, pack_chunk(counts, payload))
  redis.call('RPUSH', key(1, READY), id)
  add(1, 'bytes', #payload)
end
add(1, 'dead', -#found)
add(1, 'ready', #found)
ring(1, #found)
return reply(OK, #found, mint(1, tonumber(ARGV[1])))
