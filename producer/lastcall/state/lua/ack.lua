#!lua flags=allow-oom
--[[ ack: a reader has read results; those of a queue that keeps them until they are read are removed, which makes room.
  KEYS  the queue's (_queue.lua)
  ARGV[1] id of the last entry read   ARGV[2] items read with it and before, since the last ack
  Returns {1 OK} | {0 NOTHING} it was acknowledged before | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
load(1, 'state', 'results', 'acked', 'unread', 'bounded')
if not get(1, 'state') then return {UNKNOWN} end
local function parts(id)
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(seq)
end
local ms, seq = parts(ARGV[1])
local acked_ms, acked_seq = parts(get(1, 'acked') or '0-0')
if ms < acked_ms or (ms == acked_ms and seq <= acked_seq) then return {NOTHING} end
set(1, 'acked', ARGV[1])
if get(1, 'results') == 'once' then
  redis.call('XTRIM', key(1, RESULTS), 'MINID', string.format('%.0f-%.0f', ms, seq + 1))
  add(1, 'unread', -math.min(num(1, 'unread'), tonumber(ARGV[2])))
  ring_producers(1)
end
return reply(OK)
