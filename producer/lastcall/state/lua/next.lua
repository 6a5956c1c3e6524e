#!lua flags=allow-oom
--[[ next: complete the chunks in hand, if any, and claim the oldest ready ones, in one round trip.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] ticket   ARGV[2] the slot's nonce   ARGV[3] lease in ms   ARGV[4] chunks wanted, 0 to leave, -1 for the newest one
  ARGV[5] "1" if the slot waited and was not woken, "stay" to complete alone and keep the ticket   ARGV[6] cap on the tickets of the queue downstream
  ARGV[7] microseconds that the completions took
  ARGV[8] number of completions, then for each: chunk id, items done, items dead, outcome or "", outputs n, n x (chunk id, items, payload), retries n,
    n x (index, raises, delay in ms, payload, crashes, losses), dead letters n, n x (item, record)
  Returns {1 OK, {chunk id, items, first item, payload, crashes, losses, raises, ...}, downstream tickets to send, {}}
        | {0 NOTHING, {}, downstream tickets to send, tickets of this queue to send} nothing is ready, or it leaves
        | {-1 LOST} the ticket is not valid any more: what it completes is discarded
        | {-2 ENDED, state, downstream tickets to send} | {-3 UNKNOWN}
  A ticket that already holds chunks is given those again. ]]
--@include _queue
--@include _bell
--@include _mint
--@include _settle
--@include _complete
--@include _due
local ticket, nonce, want, newest = ARGV[1], ARGV[2], math.min(math.abs(ARGV[4]), 1000), ARGV[4] == '-1'
load(1, 'state', 'ready', 'leased', 'delayed', 'holding', 'waiting', 'done', 'dead', 'bytes', 'busy', 'results', 'bounded',
  'alone', 'suspects', 'patience', 'bounds')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state, {}} end

local held = redis.call('HGET', key(1, HELD), ticket)
local hand, holding = {}, false
if held then
  if string.match(held, '^%S+') ~= nonce then return {LOST} end
  for id, n, bytes in string.gmatch(held, ' (%S+) (%d+) (%d+)') do
    hand[id] = {tonumber(n), tonumber(bytes)}
    holding = true
  end
elseif not redis.call('ZSCORE', key(1, TICKETS), ticket) then
  return {LOST}
else
  redis.call('ZADD', key(1, TICKETS), now() + ARGV[3], ticket)
  if num(1, 'patience') > 0 then set(1, 'patience', 0) end  -- tickets arrive
end
if ARGV[5] == '1' and num(1, 'waiting') > 0 then add(1, 'waiting', -1) end

local downstream = {}
if ARGV[8] ~= '0' and complete(1, hand, 7) > 0 then downstream = mint(2, tonumber(ARGV[6])) end
if get(1, 'alone') == ticket and not next(hand) then
  set(1, 'alone', '')
  ring(1, redis.call('LLEN', key(1, READY)))
end

local ids = {}
if next(hand) then
  for id in string.gmatch(held, ' (%S+) %d+ %d+') do
    if hand[id] then ids[#ids + 1] = id end
  end
elseif want > 0 then
  due(1)
  if num(1, 'ready') > 0 and not is_closed(1) then
    if want > 1 then
      -- No more than a fair share, so that the last chunks are not all in one slot's hand.
      local length = redis.call('LLEN', key(1, READY))
      want = math.min(want, math.ceil(length / math.max(1, redis.call('ZCARD', key(1, TICKETS)))))
    end
    if newest then
      ids = redis.call('RPOP', key(1, READY), 1)
    else
      ids = redis.call('LPOP', key(1, READY), want)
    end
    if newest and num(1, 'leased') > 0 and is_suspect(1, {unpack_chunk(redis.call('HGET', key(1, CHUNKS), ids[1]))}) then
      redis.call('RPUSH', key(1, READY), ids[1])
      ids = {}
    end
  end
end
local chunks, record = {}, {nonce}
if #ids > 0 then
  local values = redis.call('HMGET', key(1, CHUNKS), unpack(ids))
  local claimed = 0
  for at, id in ipairs(ids) do
    local counts = {unpack_chunk(values[at])}
    local n, start, crashes, losses, raises = unpack(counts)
    local died = crashes + losses > 0
    if died and at > 1 and not hand[id] then
      -- One that may have killed its slot goes alone: it and those behind it go back.
      for back = #ids, at, -1 do redis.call('LPUSH', key(1, READY), ids[back]) end
      break
    end
    local to = #chunks
    chunks[to + 1], chunks[to + 2], chunks[to + 3], chunks[to + 4] = id, n, start, string.sub(values[at], PAYLOAD)
    chunks[to + 5], chunks[to + 6], chunks[to + 7] = crashes, losses, raises
    record[#record + 1] = id .. ' ' .. n .. ' ' .. (#values[at] - PAYLOAD + 1)
    if not hand[id] then
      claimed = claimed + n
      if is_suspect(1, counts) then
        add(1, 'suspects', -1)
        set(1, 'alone', ticket)
      end
    end
    if died and not hand[id] then
      for back = #ids, at + 1, -1 do redis.call('LPUSH', key(1, READY), ids[back]) end
      break
    end
  end
  add(1, 'ready', -claimed)
  add(1, 'leased', claimed)
  if claimed > 0 and get(1, 'bounds') == 'waiting' then ring_producers(1) end
end
local holds = #chunks > 0
if holds ~= holding then add(1, 'holding', holds and 1 or -1) end
if want == 0 and not holds and ARGV[5] ~= 'stay' then
  redis.call('ZREM', key(1, TICKETS), ticket)
  redis.call('HDEL', key(1, HELD), ticket)
  settle(1)
  local minted = {}
  if not has_ended(get(1, 'state')) then
    minted = mint(1, redis.call('ZCARD', key(1, TICKETS)) + 1)  -- in place of this one
  end
  return reply(NOTHING, {}, downstream, minted)
end
if holds or holding or not held then redis.call('HSET', key(1, HELD), ticket, table.concat(record, ' ')) end
if holds then return reply(OK, chunks, downstream, {}) end
settle(1)
if has_ended(get(1, 'state')) then return reply(ENDED, get(1, 'state'), downstream) end
-- No more wait than there are tickets: one that looked without waiting was counted, too.
if ARGV[5] ~= 'stay' and num(1, 'waiting') < redis.call('ZCARD', key(1, TICKETS)) then add(1, 'waiting', 1) end
return reply(NOTHING, {}, downstream, {})
