#!lua flags=allow-oom
--[[ emit: send outputs of an item before it is done. What of its chunk was done before it is complete, what is behind it is
  others' again, and the item is a chunk of its own, which keeps how many outputs were emitted: another attempt begins there.
  KEYS  the queue's, then those downstream of it (_queue.lua)
  ARGV[1] ticket   ARGV[2] the slot's nonce   ARGV[3] the chunk in hand   ARGV[4] number of the item in the chunk that was put
  ARGV[5] how many chunks of outputs were emitted before   ARGV[6] outputs that were emitted when these are
  ARGV[7] "n" for the queue downstream, "r" for the results of the last   ARGV[8] cap on the tickets of the queue downstream
  ARGV[9] cap on those of this queue   ARGV[10] 1 to go beyond the room that there is
  ARGV[11] microseconds that the completions took   ARGV[12] number of completions, then these as for next: of other chunks in
    hand, and of the part of this one before the item, "root/first:item"; then chunks of outputs n, n x (id, items, data)
  Returns {1 OK, {}, downstream tickets to send, tickets of this queue to send, more} as next says
        | {-4 FULL, {}, downstream tickets, tickets, more} there is no room for the outputs; all else is done
        | {-1 LOST} the ticket is not valid any more | {-2 ENDED, state} | {-3 UNKNOWN}
  Sent again, what was done before is passed over. ]]
--@include _queue
--@include _bell
--@include _history
--@include _path
--@include _gate
--@include _rules
--@include _mint
--@include _complete
load(1, 'flow', 'record', 'rule', 'gather', 'state', 'ready', 'leased', 'holding', 'waiting', 'done', 'dead', 'bytes', 'busy', 'results', 'bounded', 'paths')
local state = get(1, 'state')
if not state then return {UNKNOWN} end
if has_ended(state) then return {ENDED, state} end
local held = redis.call('HGET', key(1, HELD), ARGV[1])
if not held or string.match(held, '^%S+') ~= ARGV[2] then return {LOST} end
local hand, ids = {}, {}
for id, n, bytes in string.gmatch(held, ' (%S+) (%d+) (%d+)') do
  hand[id] = {tonumber(n), tonumber(bytes)}
  ids[#ids + 1] = id
end
local root, item = string.match(ARGV[3], '^[^/]+'), tonumber(ARGV[4])
local mine = root .. '/' .. item .. ':' .. (item + 1)
local whole = hand[ARGV[3]] and redis.call('HGET', key(1, CHUNKS), ARGV[3])
local behind
if whole then
  local counts = {unpack_chunk(whole)}
  local payload, past = string.sub(whole, counts[PAYLOAD]), counts[START] + counts[N]
  local function cut(first, last)
    local part, n = root .. '/' .. first .. ':' .. last, last - first
    local of = counts_of(counts, n, first)
    redis.call('HSET', key(1, CHUNKS), part, pack_chunk(of, payload))
    add(1, 'bytes', #payload)
    hand[part] = {n, #payload}
    return part, of
  end
  if counts[N] == 1 then
    mine = ARGV[3]
  else
    redis.call('HDEL', key(1, CHUNKS), ARGV[3])
    hand[ARGV[3]] = nil
    add(1, 'bytes', -#payload)
    if item > counts[START] then cut(counts[START], item) end
    cut(item, item + 1)
    if item + 1 < past then
      local of
      behind, of = cut(item + 1, past)
      if is_suspect(1, of) then add(1, 'suspects', 1) end
    end
  end
elseif not hand[mine] then
  return {LOST}
end
local own = hand[mine]
hand[mine] = nil
local _, at = complete(1, hand, 11)
-- What else it has in hand goes back, in front: this may take its time.
for place = #ids, 1, -1 do
  local other = ids[place] == ARGV[3] and behind or ids[place]
  if hand[other] then
    redis.call('LPUSH', key(1, READY), other)
    add(1, 'ready', hand[other][1])
    add(1, 'leased', -hand[other][1])
    woken[1] = (woken[1] or 0) + 1
  end
end
redis.call('HSET', key(1, HELD), ARGV[1], table.concat({ARGV[2], mine, own[1], own[2]}, ' '))

local value = redis.call('HGET', key(1, CHUNKS), mine)
local counts = {unpack_chunk(value)}
local sent, n, way = counts[PARTS], tonumber(ARGV[at]), ARGV[7]

local function is_full()
  local most, items = num(way == NEXT and 2 or 1, 'maxsize'), 0
  if most == 0 or ARGV[10] == '1' then return false end
  if way == NEXT then
    for i = 2, DEPTH do
      if get(i, 'barrier') == '1' then return false end  -- it waits for all of this
      items = items + num(i, 'ready') + num(i, 'leased') + num(i, 'delayed') + num(i, 'unread')
    end
  else
    items = num(DEPTH, 'unread')
  end
  if items < most then return false end
  local j, where = gate_behind(1)
  local path = next_path(counts, false)
  if path == '' or not j then return true end
  -- Others wait for these, so that waiting for room would never end.
  local turn = get(j, where == INTO and 'turn' or 'result_turn') or ''
  local place = place_of(path)
  return place ~= turn and turn ~= 'open' and not is_before(place, turn)
end

local code = OK
if sent == tonumber(ARGV[5]) then
  if is_full() then
    code = FULL
    redis.call('HINCRBY', key(1, JOB), 'blocked', 1)
  else
    local made = 0
    for number = 1, n do
      made = made + ARGV[at + 2]
      local path = step(path_of(counts, counts[START], counts[START] + 1), sent + number - 1, sent + number, false)
      send_part(1, way, path, ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3])
      at = at + 3
    end
    say()
    if is_recorded(1) then
      local told = told_of(1, counts)
      told.made, told.ticket = made, ARGV[1]
      note(1, 'emitted', mine, told)
    end
    counts[PARTS], counts[SKIP] = sent + n, tonumber(ARGV[6])
    redis.call('HSET', key(1, CHUNKS), mine, pack_chunk(counts, string.sub(value, counts[PAYLOAD])))
  end
end
for i, chunks in pairs(woken) do ring(i, chunks) end
local tickets = woken[1] and mint(1, tonumber(ARGV[9])) or {}
local downstream = woken[2] and not has_ended(get(2, 'state')) and mint(2, tonumber(ARGV[8])) or {}
local done = num(1, 'done') + num(1, 'dead') + num(1, 'cancelled')
return reply(code, {}, downstream, tickets, {done, 0, 0, mint_woken(3)})
