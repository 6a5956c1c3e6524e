#!lua flags=allow-oom
--[[ issue: the tickets that a flow's queues lack, since a slot has left them that would have moved to them.
  KEYS  the flow's queues, the first one first (_queue.lua)
  Returns {1 OK, {number of a queue, {tickets of it to send}, ...}} ]]
--@include _queue
--@include _bell
--@include _rules
--@include _mint
return reply(OK, mint_each(1))
