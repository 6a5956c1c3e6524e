--[[ _rules: when a queue with a rule of its own lets something be claimed: a barrier, a gather, a rate. ]]
local SOON = 1000  -- ms for which a slot waits itself; a ticket for later comes of reap
local is_shut, allowed, claimable
if get(1, 'flow') then  -- each function costs a call a little
  -- Whether nothing more comes into it.
  function is_shut(i) return get(i, 'state') == 'SEALED' and num(i, 'stages') == 0 end

  -- Items that its rate lets through now, and else the ms until it lets one (the generic cell rate algorithm, ITU-T I.371);
  -- a tenth of a second's at once.
  function allowed(i)
    local each = 1000 / get(i, 'rate')
    local burst = math.max(1, math.floor(100 / each))
    local due = math.max(num(i, 'rate_due'), now() - (burst - 1) * each)
    set(i, 'rate_due', due)
    if due > now() then return 0, math.ceil(due - now()) end
    return math.floor((now() - due) / each) + 1, 0
  end

  -- How many chunks may be claimed, one where they go together; and where there are some, but none may: in how many ms, 0
  -- where something else has to happen first.
  function claimable(i)
    local length = redis.call('LLEN', key(i, READY))
    if length == 0 or not get(i, 'rule') then return length, 0 end
    if get(i, 'barrier') == '1' and not is_shut(i) then return 0, 0 end
    if is_gather(i) then
      if is_shut(i) then return 1, 0 end
      local size, patience = string.match(get(i, 'gather'), '^batch:(%d+):(%d+)$')
      if not size then return length > 1 and 1 or 0, 0 end
      if num(i, 'ready') >= tonumber(size) then return 1, 0 end
      if patience == '0' then return 0, 0 end
      local left = num(i, 'since') + patience - now()
      return left <= 0 and 1 or 0, math.max(0, left)
    end
    if num(i, 'rate') > 0 then
      local _, ms = allowed(i)
      return ms < SOON and length or 0, ms
    end
    return length, 0
  end
end
