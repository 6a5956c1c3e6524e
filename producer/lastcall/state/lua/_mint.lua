--[[ _mint: issue the tickets that a queue lacks: one for each chunk that may be claimed and that no idle ticket will take,
  up to `cap` in all. The caller sends them through Celery; one that is lost on the way is replaced by reap.
  Slots of a flow with several queues move between them (move.lua). So none is issued where all slots that serve a queue
  are at queues of its flow already, which no message could bring: they are called instead, and whoever leaves, issues. ]]
local function has_siblings(i) return (get(i, 'head') or '') ~= '' end

local is_beside, open_chunks, lacking_slots, all_here, call_over, is_called
if get(1, 'flow') and (DEPTH > 1 or has_siblings(1)) then  -- each function costs a call a little
  -- Whether slots of queue i may move to queue j.
  function is_beside(i, j) return j ~= i and get(j, 'celery') == get(i, 'celery') and not has_ended(get(j, 'state')) end

  -- Chunks that one more slot could be given, and in how many ms where its rate lets nothing through before.
  function open_chunks(i)
    if is_closed(i) or (is_gather(i) and num(i, 'holding') > 0) then return 0, 0 end
    return claimable(i)
  end

  -- How many slots queue i has need of beyond those that wait there.
  function lacking_slots(i)
    local ready, ms = open_chunks(i)
    if ready == 0 then return 0 end
    if ms > 0 then ready = 1 end  -- one waits for its rate
    return ready - (redis.call('HLEN', key(i, HELD)) - num(i, 'holding'))
  end

  function all_here(i)
    local slots, here = num(i, 'slots'), 0
    for j = 1, slots > 0 and DEPTH or 0 do
      if get(j, 'celery') == get(i, 'celery') then
        for _, ticket in ipairs(redis.call('HKEYS', key(j, HELD))) do
          if string.sub(ticket, 1, 7) ~= 'helper-' then here = here + 1 end  -- of a slot that is counted where it waits
        end
      end
    end
    return slots > 0 and here >= slots
  end

  -- Tell slots beside queue i that it has need of some: those that wait at their bells and those that find nothing next.
  function call_over(i, slots)
    for j = 1, DEPTH do
      if is_beside(i, j) then
        set(j, 'called', slots)
        ring(j, slots)
      end
    end
  end

  -- Whether a slot that finds nothing in queue i had better ask `move`: it was called, or a queue downstream lacks slots.
  function is_called(i)
    if num(i, 'called') > 0 then
      add(i, 'called', -1)
      return true
    end
    for j = i + 1, DEPTH do
      if is_beside(i, j) and lacking_slots(j) > 0 then return true end
    end
    return false
  end
end

local function mint(i, cap, whoever_is_here)
  local minted = {}
  if (get(i, 'celery') or '') == '' then return minted end
  local most = num(i, 'max_workers')
  if most > 0 then cap = most end
  local lacking = has_siblings(i) and lacking_slots(i) or 0
  if lacking > 0 then call_over(i, lacking) end
  local tickets = redis.call('ZCARD', key(i, TICKETS))
  if tickets >= cap or is_closed(i) then return minted end
  local idle = tickets - num(i, 'holding')
  local ready = get(i, 'rule') and claimable(i) or redis.call('LLEN', key(i, READY))
  lacking = math.min(ready - idle, cap - tickets)
  if lacking > 0 and not whoever_is_here and has_siblings(i) and all_here(i) then return minted end
  for _ = 1, lacking do
    add(i, 'last_ticket', 1)
    local ticket = tostring(num(i, 'last_ticket'))
    redis.call('ZADD', key(i, TICKETS), now() + num(i, 'issue'), ticket)
    minted[#minted + 1] = ticket
  end
  return minted
end

-- Those of queues from the first one on, or of those that are named (i -> true): number, tickets, ...
local function mint_each(first, named)
  local minted = {}
  for i = first, DEPTH do
    local state = (not named or named[i]) and get(i, 'state')
    if state and not has_ended(state) then
      local tickets = mint(i, math.max(1, num(i, 'slots')))
      if #tickets > 0 then
        minted[#minted + 1] = i
        minted[#minted + 1] = tickets
      end
    end
  end
  return minted
end

-- Those of queues that may have more to be claimed than before.
local function mint_woken(first) return FLOW and mint_each(first, woken) or {} end
