#!lua flags=allow-oom
--[[ overrun: end a ticket whose item runs for too long: that one is tried again or given up, its neighbours are ready again.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] ticket   ARGV[2] a chunk in its hand   ARGV[3] number of the item in that, from 0
  ARGV[4] ms until it is tried again, -1 to give it up   ARGV[5] worker, tab, ms that it had   ARGV[6] cap on tickets
  Returns {1 OK, tickets to send} | {0 NOTHING} the ticket does not hold that chunk any more | {-2 ENDED, state} | {-3 UNKNOWN} ]]
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
local held = redis.call('HGET', key(1, HELD), ARGV[1]) or ''
if not string.find(held, ' ' .. ARGV[2] .. ' ', 1, true) then return {NOTHING} end
giveback(1, ARGV[1], 'timeout', ARGV[5], tonumber(ARGV[3]), ARGV[2], tonumber(ARGV[4]))
settle(1)
local minted = {}
if not has_ended(get(1, 'state')) then minted = mint(1, tonumber(ARGV[6])) end
return reply(OK, minted)
