#!lua flags=allow-oom
--[[ withdraw: take chunks out of the queue that no ticket holds: they are cancelled, and their reader is told.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1...] chunk ids; of those that are ready the last one first, since `ready` is looked through from behind
  Returns {1 OK, {id of each that was taken out, ...}} a ticket holds the others, or they are complete, or were taken out before
        | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _settle
load(1, 'state', 'ready', 'delayed', 'cancelled', 'bytes', 'unread', 'results', 'suspects', 'sealed', 'waiting', 'bounded')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
local gone, entry, items = {}, {}, 0
for _, id in ipairs(ARGV) do
  local value = redis.call('HGET', key(1, CHUNKS), id)
  local from
  if value and redis.call('ZREM', key(1, DELAYED), id) == 1 then
    from = 'delayed'
  elseif value and redis.call('LREM', key(1, READY), -1, id) == 1 then
    from = 'ready'
  end
  if from then
    local counts = {unpack_chunk(value)}
    redis.call('HDEL', key(1, CHUNKS), id)
    add(1, from, -counts[1])
    add(1, 'bytes', -(#value - counts[PAYLOAD] + 1))
    if from == 'ready' and is_suspect(1, counts) then add(1, 'suspects', -1) end
    items = items + counts[1]
    gone[#gone + 1] = id
    if FLOW then pass(1, next_path(counts, true)) end
    entry[#entry + 1] = id
    entry[#entry + 1] = 'C' .. counts[1]
  end
end
if #gone == 0 then return {OK, gone} end
add(1, 'cancelled', items)
if get(1, 'results') ~= 'discard' then
  -- Whoever asked for this may never get the reply: the reader learns of it all the same.
  redis.call('XADD', key(1, RESULTS), '*', unpack(entry))
  if get(1, 'results') == 'once' then add(1, 'unread', items) end
end
if FLOW then say() end
ring(1, redis.call('LLEN', key(1, READY)))  -- the others may have waited for one that was to run alone
ring_producers(1)
settle(1)
return reply(OK, gone)
