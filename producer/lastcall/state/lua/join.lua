#!lua
--[[ join: take out a producer's lease. A producer that comes back under its name goes on where its last accepted put
  ended, with a new epoch: what the old one still sends is refused.
  KEYS  the queue's (_queue.lua)
  ARGV[1] producer   ARGV[2] lease in ms, or 0 for the queue's own
  Epochs are numbered over all producers and all epochs of the queue, so that a handle is good for one lease alone.
  Returns {1 OK, index, epoch, last sequence number, items put, place among those who came in this epoch of the queue}
        | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
load(1, 'state', 'lease', 'sealed', 'last_index', 'first_index', 'last_epoch', 'come', 'live', 'lost')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) or get(1, 'sealed') then return {ENDED, state} end
local record = redis.call('HGET', key(1, PRODUCERS), ARGV[1])
local index, seq, items, was, epoch
if record then
  index, seq, items, was = string.match(record, '^(%d+) %d+ (%d+) (%d+) (%a+)$')
end
-- A sealed queue takes back a producer that it knows and gave up, never a new one.
if state == 'SEALED' and was ~= 'lost' then return {ENDED, state} end
if not record then
  add(1, 'last_index', 1)
  index, seq, items = num(1, 'last_index'), 0, 0
  add(1, 'come', 1)
end
if was ~= 'live' and was ~= 'absent' then add(1, 'live', 1) end
if was == 'lost' then add(1, 'lost', -1) end
add(1, 'last_epoch', 1)
epoch = num(1, 'last_epoch')
if state ~= 'OPEN' then set(1, 'state', 'OPEN') end
redis.call('HSET', key(1, PRODUCERS), ARGV[1],
  table.concat({index, epoch, seq, items, 'live'}, ' '))
local lease = tonumber(ARGV[2])
if lease == 0 then lease = num(1, 'lease') end
redis.call('ZADD', key(1, LEASES), now() + lease, ARGV[1])
return reply(OK, tonumber(index), epoch, tonumber(seq), tonumber(items), index - num(1, 'first_index'))
