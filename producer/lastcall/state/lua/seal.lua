#!lua flags=allow-oom
--[[ seal: nothing more comes, whoever is still there; or, cancelling, nothing more is done either.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] "seal" or "cancel"
  Returns {1 OK, state} | {-2 ENDED, state} it had ended | {-3 UNKNOWN} ]]
--@include _queue
--@include _bell
--@include _settle
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
if ARGV[1] == 'seal' then
  set(1, 'state', 'SEALED')
  set(1, 'sealed', now())
  ring_producers(1)
  settle(1)
else
  local left = num(1, 'ready') + num(1, 'leased') + num(1, 'delayed')
  add(1, 'cancelled', left)
  for _, field in ipairs({'ready', 'leased', 'delayed', 'bytes'}) do set(1, field, 0) end
  end_queue(1, 'CANCELLED')
  if DEPTH > 1 then
    depart(2, 'stage:' .. get(1, 'name'), 'lost')
    settle(2)
  end
end
return reply(OK, get(1, 'state'))
