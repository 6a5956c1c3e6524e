#!lua flags=allow-oom
--[[ issue: the tickets that a flow's queues lack, since a slot has left them that would have moved to them.
  KEYS  the flow's queues, the first one first (_queue.lua)
  Returns {1 OK, {number of a queue, {tickets of it to send}, ...}} ]]
--@include _queue
--@include _bell
--@include _rules
--@include _mint
local minted = {}
for i = 1, DEPTH do
  local state = get(i, 'state')
  if state and not has_ended(state) then
    local tickets = mint(i, math.max(1, num(i, 'slots')))
    if #tickets > 0 then
      minted[#minted + 1] = i
      minted[#minted + 1] = tickets
    end
  end
end
return reply(OK, minted)
