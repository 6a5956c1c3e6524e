--[[ _mint: issue the tickets that a queue lacks: one for each chunk that may be claimed and that no idle ticket will take,
  up to `cap` in all. The caller sends them through Celery; one that is lost on the way is replaced by reap. ]]
local function mint(i, cap)
  local minted = {}
  if (get(i, 'celery') or '') == '' then return minted end
  local most = num(i, 'max_workers')
  if most > 0 then cap = most end
  local tickets = redis.call('ZCARD', key(i, TICKETS))
  if tickets >= cap or is_closed(i) then return minted end
  local idle = tickets - num(i, 'holding')
  local ready = get(i, 'rule') and claimable(i) or redis.call('LLEN', key(i, READY))
  local lacking = math.min(ready - idle, cap - tickets)
  for _ = 1, lacking do
    add(i, 'last_ticket', 1)
    local ticket = tostring(num(i, 'last_ticket'))
    redis.call('ZADD', key(i, TICKETS), now() + num(i, 'issue'), ticket)
    minted[#minted + 1] = ticket
  end
  return minted
end

-- Those of queues from the first one on that may have more to be claimed than before: number, tickets, ...
local function mint_woken(first)
  local minted = {}
  if not FLOW then return minted end
  for i = first, DEPTH do
    if woken[i] and not has_ended(get(i, 'state')) then
      local tickets = mint(i, math.max(1, num(i, 'slots')))
      if #tickets > 0 then
        minted[#minted + 1] = i
        minted[#minted + 1] = tickets
      end
    end
  end
  return minted
end
