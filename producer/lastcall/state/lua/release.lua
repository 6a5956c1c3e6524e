#!lua flags=allow-oom
--[[ release: end a ticket and give back what it held, in front of what is ready.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] ticket   ARGV[2] "crash" (its slot died) or "return"
  ARGV[3] items of its first chunk that were processed   ARGV[4] cap on tickets
  ARGV[5] what to say of an item that is given up: worker, tab, how its slot died
  Returns {1 OK, chunks given back, tickets to send} | {-1 LOST} no such ticket | {-2 ENDED, state} | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _rules
--@include _mint
--@include _settle
--@include _giveback
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
if not redis.call('ZSCORE', key(1, TICKETS), ARGV[1]) then return {LOST} end
local returned = giveback(1, ARGV[1], ARGV[2], ARGV[5], tonumber(ARGV[3]))
settle(1)
local minted = {}
if not has_ended(get(1, 'state')) then minted = mint(1, tonumber(ARGV[4])) end
return reply(OK, returned, minted)
