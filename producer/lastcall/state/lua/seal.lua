#!lua flags=allow-oom
--[[ seal: nothing more comes, whoever is still there; or, cancelling, nothing more is done either.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] "seal" or "cancel"
  Returns {1 OK, state, {number of a queue, {tickets of it to send}, ...}} | {-2 ENDED, state} it had ended | {-3 UNKNOWN} ]]
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
if has_ended(state) then return {ENDED, state} end
if ARGV[1] == 'seal' then
  set(1, 'state', 'SEALED')
  set(1, 'sealed', now())
  wake(1)
  ring_producers(1)
  settle(1)
else
  local left = num(1, 'ready') + num(1, 'leased') + num(1, 'delayed')
  add(1, 'cancelled', left)
  for _, field in ipairs({'ready', 'leased', 'delayed', 'bytes'}) do set(1, field, 0) end
  end_queue(1, 'CANCELLED')
  if DEPTH > 1 then
    if FLOW then
      -- What was cancelled tells nobody that it comes to nothing: those behind it wait no more.
      for i = 2, DEPTH do
        if get(i, 'gated') == '1' and not has_ended(get(i, 'state')) then open_gate(i, INTO, true) end
        if get(i, 'ordered') == '1' and not has_ended(get(i, 'state')) then open_gate(i, OUT, true) end
      end
      say()
    end
    depart(2, 'stage:' .. get(1, 'name'), 'lost')
    settle(2)
  end
end
return reply(OK, get(1, 'state'), mint_woken(1))
