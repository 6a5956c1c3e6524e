#!lua flags=allow-oom
--[[ reap: what time has done to a queue. Leases that ran out, tickets that fell silent, delays that are over, tickets
  that are lacking.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] cap on tickets   ARGV[2] "1" if no message waits in the Celery queue, so that a ticket which has not started is
    lost; else it may be: it is sent again, and the first message to arrive runs it
  Returns {1 OK, tickets to send, producers lost, tickets lost, state} | {-2 ENDED, state} it had ended | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _rules
--@include _mint
--@include _settle
--@include _giveback
--@include _due
load(1, 'state', 'on_lost', 'sealed', 'issue', 'delayed', 'waiting', 'reaped', 'spared', 'lease')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
-- A ticket may take twice as long each time before it is sent again, lest a long line grows by what is sent again.
local PATIENCE = 60000
-- Nobody looked for a while: the server was away, or its clock was put forward. Who held a lease at the last look could
-- not renew it, and is given another; but not twice in a row, lest somebody who looks rarely waits for ever.
local PAUSE = 3000
local last = num(1, 'reaped')
local spare = last > 0 and get(1, 'spared') ~= '1' and now() - last > math.max(PAUSE, num(1, 'lease') / 2)
if spare then
  for _, part in ipairs({LEASES, TICKETS}) do
    for _, who in ipairs(redis.call('ZRANGEBYSCORE', key(1, part), '(' .. last, now())) do
      if part == LEASES or redis.call('HEXISTS', key(1, HELD), who) == 1 then
        redis.call('ZADD', key(1, part), now() + num(1, 'lease'), who)
      end
    end
  end
end
set(1, 'reaped', now())
set(1, 'spared', spare and 1 or 0)
local lost_producers, lost_tickets, again = {}, {}, {}
for _, producer in ipairs(redis.call('ZRANGEBYSCORE', key(1, LEASES), '-inf', now())) do
  if lose(1, producer) then lost_producers[#lost_producers + 1] = producer end
end
for _, ticket in ipairs(redis.call('ZRANGEBYSCORE', key(1, TICKETS), '-inf', now())) do
  if redis.call('HEXISTS', key(1, HELD), ticket) == 1 then
    giveback(1, ticket, 'lost', '\tits lease ran out', 0)
    lost_tickets[#lost_tickets + 1] = ticket
  elseif ARGV[2] == '1' then
    redis.call('ZREM', key(1, TICKETS), ticket)
    lost_tickets[#lost_tickets + 1] = ticket
  elseif tonumber(ARGV[1]) > 0 then  -- else nobody is there to run it
    again[#again + 1] = ticket
  end
end
if #again > 0 then
  local patience = math.min(2 * math.max(num(1, 'patience'), num(1, 'issue')), PATIENCE)
  set(1, 'patience', patience)
  for _, ticket in ipairs(again) do redis.call('ZADD', key(1, TICKETS), now() + patience, ticket) end
end
if FLOW then set(1, 'slots', ARGV[1]) end
local became_ready = due(1)
ring(1, became_ready)
settle(1)
local minted = {}
if not has_ended(get(1, 'state')) then
  minted = mint(1, tonumber(ARGV[1]), true)
  for _, ticket in ipairs(again) do minted[#minted + 1] = ticket end
end
return reply(OK, minted, lost_producers, lost_tickets, get(1, 'state'))
