#!lua flags=allow-oom
--[[ next: complete the chunks in hand, if any, and claim the oldest ready ones, in one round trip.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] ticket   ARGV[2] the slot's nonce   ARGV[3] lease in ms
  ARGV[4] chunks wanted, or chunks:items, which after the first one shall not be exceeded; 0 to leave, -1 for the newest one, -2 for the one
    whose turn it is at the next gate
  ARGV[5] "1" if the slot waited since it asked last, "stay" to complete alone and keep the ticket
  ARGV[6] cap on the tickets of the queue downstream
  ARGV[7] microseconds that the completions took
  ARGV[8] number of completions, then for each: chunk id, items done, items dead, outcome or "", outputs n, n x (chunk id, items, payload), retries n,
    n x (index, raises, delay in ms, payload, crashes, losses), dead letters n, n x (item, record), segments n, n x (first item, the one behind
    its last, "n" for the queue downstream, "r" for results of the last, "s" for this queue again, "e" for an error, parts n, n x (id, items, data)),
    items that are left over, items done that came to an error, notes n, n x (kind, id, msgpack map) for the history (_complete.lua)
  ARGV, the last one: how many chunks the slot knows to be in its hand when these are complete
  Returns {1 OK, {chunk id, header and payload, ...}, downstream tickets to send, {}, more}
        | {0 NOTHING, {}, downstream tickets to send, tickets of this queue to send, more} nothing may be claimed, or it leaves
        | {-1 LOST} the ticket is not valid any more: what it completes is discarded
        | {-2 ENDED, state, downstream tickets to send, more} | {-3 UNKNOWN}
  more, for a flow's queue, or where it tells when to ask again: {items done before, 1 if what does not fill a batch is to go as well, or a reduction ends, ms to ask again after or 0,
    {number of a queue further downstream, {tickets of it to send}, ...}, 1 where it had better ask `move`, since other queues of the flow lack slots}
  A ticket that holds more chunks than its slot knows is given the others again; one whose slot knows them all may claim
  others beside them, but none that came back from a crash. ]]
--@include _queue
load(1, 'flow', 'head', 'record', 'rule', 'gather', 'state', 'ready', 'leased', 'delayed', 'holding', 'waiting', 'rung', 'done', 'dead', 'bytes', 'busy', 'results', 'bounded',
  'alone', 'suspects', 'patience', 'bounds')
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _rules
--@include _mint
--@include _settle
--@include _complete
--@include _due
local wanted, most_items = string.match(ARGV[4], '^(-?%d+):?(%d*)$')
local ticket, nonce, want = ARGV[1], ARGV[2], math.min(math.abs(wanted), 1000)
most_items = tonumber(most_items) or math.huge
local newest, in_turn = wanted == '-1', wanted == '-2'
--@include _choose
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
if ARGV[5] == '1' then looks_again(1) end

local outputs = 0
if ARGV[8] ~= '0' then outputs = complete(1, hand, 7) end
if get(1, 'alone') == ticket and not next(hand) then
  set(1, 'alone', '')
  ring(1, redis.call('LLEN', key(1, READY)))
end

local ids, kept, rest, wait_ms = {}, 0, false, 0
if next(hand) then
  for id in string.gmatch(held, ' (%S+) %d+ %d+') do
    if hand[id] then ids[#ids + 1] = id end
  end
  kept = math.min(tonumber(ARGV[#ARGV]), #ids)
end
local record = {nonce}
for at = 1, kept do record[at + 1] = ids[at] .. ' ' .. hand[ids[at]][1] .. ' ' .. hand[ids[at]][2] end
if kept > 0 then ids = {unpack(ids, kept + 1)} end
if #ids == 0 and want > 0 then
  due(1)
  local others = num(1, 'holding') - (holding and 1 or 0)
  local ready = num(1, 'ready') > 0 and not is_closed(1)
  if ready and get(1, 'rule') then
    ready, wait_ms = claimable(1)
    ready = ready > 0 and not (is_gather(1) and others > 0) and (wait_ms == 0 or num(1, 'rate') == 0)
  end
  if ready and is_gather(1) then
    ids, rest = gather(1)
  elseif ready and in_turn then
    ids = take_turn(1)
  elseif ready and get(1, 'rule') and num(1, 'rate') > 0 then
    ids = ration(1)
  elseif ready then
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
local chunks = {}
if #ids > 0 then
  local values = redis.call('HMGET', key(1, CHUNKS), unpack(ids, 1, math.min(#ids, 2000)))
  for first = 2001, #ids, 2000 do
    local more = redis.call('HMGET', key(1, CHUNKS), unpack(ids, first, math.min(first + 1999, #ids)))
    for at, value in ipairs(more) do values[first + at - 1] = value end
  end
  local claimed = 0
  for at, id in ipairs(ids) do
    local counts = {unpack_chunk(values[at])}
    local n = counts[N]
    local died = counts[CRASHES] + counts[LOSSES] > 0 and not is_gather(1)
    local too_much = claimed > 0 and claimed + n > most_items and not is_gather(1)
    if (too_much or (died and at + kept > 1)) and not hand[id] then
      -- One that may have killed its slot goes alone, and there is enough: it and those behind it go back.
      for back = #ids, at, -1 do redis.call('LPUSH', key(1, READY), ids[back]) end
      break
    end
    chunks[#chunks + 1] = id
    chunks[#chunks + 1] = values[at]
    record[#record + 1] = id .. ' ' .. n .. ' ' .. (#values[at] - counts[PAYLOAD] + 1)
    if not hand[id] then
      claimed = claimed + n
      if is_recorded(1) then
        local attempt = counts[CRASHES] + counts[LOSSES] + counts[RAISES] + 1
        note(1, 'started', id, {items = n, first = counts[START], attempt = attempt, ticket = ticket})
      end
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
-- A slot that asks again what it was told before is told the same.
if next(hand) then rest = string.find(held, ' rest$') end
if rest then record[#record + 1] = 'rest' end
local holds = #chunks + kept > 0
if holds ~= holding then add(1, 'holding', holds and 1 or -1) end
local tickets_elsewhere
if DEPTH > 1 or FLOW then
  function tickets_elsewhere()
    local downstream = {}
    if FLOW and DEPTH > 1 and get(2, 'slots') ~= ARGV[6] then set(2, 'slots', ARGV[6]) end
    if DEPTH > 1 and not has_ended(get(2, 'state')) and (outputs > 0 or woken[2]) then
      downstream = mint(2, tonumber(ARGV[6]))
    end
    if not FLOW then return downstream end
    local done = num(1, 'done') + num(1, 'dead') + num(1, 'cancelled')
    return downstream, {done, rest and 1 or 0, wait_ms, mint_woken(3)}
  end
end
if want == 0 and not holds and ARGV[5] ~= 'stay' then
  redis.call('ZREM', key(1, TICKETS), ticket)
  redis.call('HDEL', key(1, HELD), ticket)
  settle(1)
  local minted = {}
  if not has_ended(get(1, 'state')) then
    local others = redis.call('ZCARD', key(1, TICKETS))
    if others == 0 then  -- nobody waits: forget those that died while they did
      set(1, 'waiting', 0)
      set(1, 'rung', 0)
    end
    minted = mint(1, others + 1)  -- in place of this one
  end
  local downstream, more = {}
  if tickets_elsewhere then downstream, more = tickets_elsewhere() end
  return reply(NOTHING, {}, downstream, minted, more)
end
if holds or holding or not held then redis.call('HSET', key(1, HELD), ticket, table.concat(record, ' ')) end
if not holds then
  settle(1)
  local ms = due_in(1)
  if ms > 0 and ms < SOON and (wait_ms == 0 or ms < wait_ms) then wait_ms = ms end
  -- No more wait than there are tickets: one that looked without waiting was counted, too.
  local waits = ARGV[5] ~= 'stay' and not has_ended(get(1, 'state'))
  if waits and num(1, 'waiting') < redis.call('ZCARD', key(1, TICKETS)) then add(1, 'waiting', 1) end
end
local downstream, more = {}
if tickets_elsewhere then downstream, more = tickets_elsewhere() end
if more then more[5] = not holds and has_siblings(1) and is_called(1) and 1 or 0 end
if holds then return reply(OK, chunks, downstream, {}, more) end
if has_ended(get(1, 'state')) then return reply(ENDED, get(1, 'state'), downstream, more) end
if wait_ms > 0 and not more then more = {0, 0, wait_ms, {}} end
return reply(NOTHING, {}, downstream, {}, more)
