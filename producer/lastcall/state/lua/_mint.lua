--[[ _mint: issue the tickets that a queue lacks: one for each ready chunk that no idle ticket will take, up to
  `cap` in all. The caller sends them through Celery; one that is lost on the way is replaced by reap. ]]
local function mint(i, cap)
  local minted = {}
  if (get(i, 'celery') or '') == '' then return minted end
  local most = num(i, 'max_workers')
  if most > 0 then cap = most end
  local tickets = redis.call('ZCARD', key(i, TICKETS))
  if tickets >= cap or is_closed(i) then return minted end
  local idle = tickets - num(i, 'holding')
  local lacking = math.min(redis.call('LLEN', key(i, READY)) - idle, cap - tickets)
  for _ = 1, lacking do
    add(i, 'last_ticket', 1)
    local ticket = tostring(num(i, 'last_ticket'))
    redis.call('ZADD', key(i, TICKETS), now() + num(i, 'issue'), ticket)
    minted[#minted + 1] = ticket
  end
  return minted
end
