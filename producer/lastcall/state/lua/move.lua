#!lua flags=allow-oom
--[[ move: a slot that finds nothing in its queue leaves it for another one of the flow which lacks slots. Its ticket there
  takes the place of one that no slot has shown so far, and which is void then, or is a further one.
  KEYS  the flow's queues, the first one first (_queue.lua)
  ARGV[1] number of the slot's queue   ARGV[2] its ticket   ARGV[3] its nonce   ARGV[4] its ticket in the other queue
  ARGV[5] lease in ms
  Returns {1 OK, number of the other queue} | {0 NOTHING} none lacks slots, or its own queue has something again
        | {-1 LOST} its ticket is not valid any more | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _rules
--@include _mint
local i, ticket, nonce, new = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local state = get(i, 'state')
if not state then return {UNKNOWN} end
for j = 1, DEPTH do
  if redis.call('HEXISTS', key(j, HELD), new) == 1 then return {OK, j} end  -- the reply was lost
end
if not has_ended(state) then
  if redis.call('HGET', key(i, HELD), ticket) ~= nonce then return {LOST} end
  local ready, ms = open_chunks(i)
  if ready > 0 and ms == 0 then return {NOTHING} end
end

-- The last to have been sent: the others' messages come earlier.
local function ticket_without_slot(j)
  if redis.call('ZCARD', key(j, TICKETS)) <= redis.call('HLEN', key(j, HELD)) then return end
  local tickets = redis.call('ZRANGE', key(j, TICKETS), 0, -1)
  for at = #tickets, 1, -1 do
    if redis.call('HEXISTS', key(j, HELD), tickets[at]) == 0 then return tickets[at] end
  end
end

-- The last queue first: what is nearly done makes room.
for j = DEPTH, 1, -1 do
  if is_beside(i, j) and lacking_slots(j) > 0 then
    local void, most = ticket_without_slot(j), num(j, 'max_workers')
    if void or most == 0 or redis.call('ZCARD', key(j, TICKETS)) < most then
      if void then redis.call('ZREM', key(j, TICKETS), void) end
      redis.call('ZADD', key(j, TICKETS), now() + ARGV[5], new)
      redis.call('HSET', key(j, HELD), new, nonce)
      redis.call('ZREM', key(i, TICKETS), ticket)
      redis.call('HDEL', key(i, HELD), ticket)
      if num(i, 'waiting') > 0 then add(i, 'waiting', -1) end
      if not has_ended(state) and lacking_slots(i) > 0 then call_over(i, 1) end  -- it waited for its rate
      return reply(OK, j)
    end
  end
end
return reply(NOTHING)
