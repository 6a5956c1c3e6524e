#!lua
--[[ put: append a producer's chunks, as many as there is room for. A chunk that was accepted before is recognised by its
  sequence number, so that a put whose reply was lost may be sent again.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] producer   ARGV[2] its epoch   ARGV[3] sequence number of the first chunk   ARGV[4] cap on tickets
  ARGV[5...] items, payload for each chunk; none to ask for room alone
  Returns {1 OK, last sequence number accepted, items there is room for or -1, tickets to send, microseconds an item or -1}
        | {-4 FULL, last sequence number accepted, room, tickets to send, microseconds an item} some chunks did not fit; room rings
        | {-1 LOST} the lease was lost or taken over, or chunks are missing before the first | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
load(1, 'flow', 'head', 'record', 'rule', 'state', 'maxsize', 'maxbytes', 'bounds', 'sealed', 'put', 'ready', 'bytes', 'waiting', 'holding', 'celery', 'max_workers', 'done', 'dead', 'busy')
--@include _bell
--@include _history
--@include _rules
--@include _mint
local state = get(1, 'state')
if not state then return {UNKNOWN} end
local producer = redis.call('HGET', key(1, PRODUCERS), ARGV[1])
if not producer then return {LOST} end
local index, epoch, seq, items, how = string.match(producer, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
seq = tonumber(seq)
local first = tonumber(ARGV[3])
local last = first + (#ARGV - 4) / 2 - 1
local refused
if has_ended(state) or get(1, 'sealed') then
  refused = {ENDED, state}
elseif epoch ~= ARGV[2] or (how ~= 'live' and how ~= 'absent') or first > seq + 1 then
  refused = {LOST}
end
if refused then
  -- All of it is there already: say so, whatever came since.
  if #ARGV > 4 and epoch == ARGV[2] and last <= seq then return {OK, last, -1, {}, -1} end
  return refused
end

local maxsize, maxbytes = num(1, 'maxsize'), num(1, 'maxbytes')
local load_items, load_bytes = 0, 0
if maxsize > 0 or maxbytes > 0 then
  -- Items outstanding here and downstream, results that wait for their reader included.
  for i = 1, DEPTH do
    load(i, 'ready', 'leased', 'delayed', 'unread', 'bytes')
    load_items = load_items + num(i, 'ready') + num(i, 'delayed') + num(i, 'unread')
    -- Of a queue that is bounded as queue.Queue is, who has got an item has made room.
    if i > 1 or get(1, 'bounds') ~= 'waiting' then load_items = load_items + num(i, 'leased') end
    load_bytes = load_bytes + num(i, 'bytes')
  end
end
-- What an item took so far, so that the producer can choose how many make a chunk.
local processed = num(1, 'done') + num(1, 'dead')
local cost = processed > 0 and math.floor(num(1, 'busy') / processed) or -1
local code, put, bytes = OK, 0, 0
if #ARGV == 4 and ((maxsize > 0 and load_items >= maxsize) or (maxbytes > 0 and load_bytes >= maxbytes)) then
  code = FULL
  redis.call('HINCRBY', key(1, JOB), 'blocked', 1)
end
local chunks, ids = {}, {}
for at = 5, #ARGV, 2 do
  local this = first + (at - 5) / 2
  if this > seq then
    local n, payload = tonumber(ARGV[at]), ARGV[at + 1]
    if (maxsize > 0 and load_items + put + n > maxsize)
      or (maxbytes > 0 and load_bytes + bytes > 0 and load_bytes + bytes + #payload > maxbytes) then
      code = FULL
      redis.call('HINCRBY', key(1, JOB), 'blocked', 1)
      break
    end
    local id = index .. '-' .. this
    chunks[#chunks + 1] = id
    local path = ''
    if get(1, 'flow') and get(1, 'paths') == '1' then path = (items + put) .. ':' .. (items + put + n) .. ':0' end
    chunks[#chunks + 1] = pack_chunk({n, 0, 0, 0, 0, path ~= '' and n or 0, 0, 0, path}, payload)
    ids[#ids + 1] = id
    if is_recorded(1) then note(1, 'put', id, {items = n, path = path, exact = path ~= '' or nil, said = ARGV[1]}) end
    put, bytes, seq = put + n, bytes + #payload, this
  end
end
if #ids == 0 then return {code, seq, maxsize > 0 and maxsize - load_items or -1, {}, cost} end
for at = 1, #ids, 2000 do  -- unpack() has a limit
  local last_at = math.min(at + 1999, #ids)
  redis.call('HSET', key(1, CHUNKS), unpack(chunks, 2 * at - 1, 2 * last_at))
  redis.call('RPUSH', key(1, READY), unpack(ids, at, last_at))
end
redis.call('HSET', key(1, PRODUCERS), ARGV[1], table.concat({index, epoch, seq, items + put, 'live'}, ' '))
if how == 'absent' then redis.call('ZADD', key(1, LEASES), now() + num(1, 'lease'), ARGV[1]) end
if get(1, 'flow') then
  set(1, 'slots', ARGV[4])
  if is_gather(1) and num(1, 'ready') == 0 then set(1, 'since', now()) end
end
add(1, 'put', put)
add(1, 'ready', put)
add(1, 'bytes', bytes)
ring(1, #ids)
return reply(code, seq, maxsize > 0 and maxsize - load_items - put or -1, mint(1, tonumber(ARGV[4])), cost)
