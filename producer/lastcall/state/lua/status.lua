#!lua flags=no-writes
--[[ status: one moment's picture of a queue.
  KEYS  the queue's (_queue.lua)
  Returns {1 OK, now in ms, meta as field, value, ..., {producer, record, deadline or "", ...}, tickets, tickets that have
    started, chunks ready} | {-3 UNKNOWN} ]]
--@include _queue
local meta = redis.call('HGETALL', key(1, META))
if #meta == 0 then return {UNKNOWN} end
local producers = {}
local records = redis.call('HGETALL', key(1, PRODUCERS))
for at = 1, #records, 2 do
  producers[#producers + 1] = records[at]
  producers[#producers + 1] = records[at + 1]
  producers[#producers + 1] = redis.call('ZSCORE', key(1, LEASES), records[at]) or ''
end
return {OK, now(), meta, producers, redis.call('ZCARD', key(1, TICKETS)), redis.call('HLEN', key(1, HELD)),
  redis.call('LLEN', key(1, READY))}
