#!lua flags=allow-oom
--[[ leave: give back a producer's lease; the last one to leave seals the queue.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] producer   ARGV[2] its epoch   ARGV[3] "left", or "lost" if it failed
  Returns {1 OK, state, {number of a queue, {tickets of it to send}, ...}} | {-1 LOST} it holds no lease any more | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _rules
--@include _mint
--@include _settle
local state = get(1, 'state')
if not state then return {UNKNOWN} end
local record = redis.call('HGET', key(1, PRODUCERS), ARGV[1])
if not record then return {LOST} end
local _, epoch, _, _, how = string.match(record, '^(%d+) (%d+) (%d+) (%d+) (%a+)$')
if epoch ~= ARGV[2] then return {LOST} end
if ARGV[3] == 'left' then
  if how == 'lost' then return {LOST} end
  depart(1, ARGV[1], 'left')
elseif how == 'live' then
  lose(1, ARGV[1])
end
settle(1)
return reply(OK, get(1, 'state'), mint_woken(1))
