--[[ _giveback: what a ticket held becomes ready again, in front. `how`:
  return   the first `at` items of its first chunk were processed
  crash    its slot died, and alone: each chunk counts one crash more
  lost     its lease ran out, and with it whatever ran beside it: each chunk counts one loss more
  timeout  the item `at` (from 0) of its chunk `late` took too long: it alone is tried again after `delay` ms or, where
           that is below 0, given up; `timeout` is what it had, in ms
  From the second crash or loss on a chunk is halved, so that the item which kills its slot comes to stand alone, and
  alone, also in its slot's hand, it becomes a dead letter at `crash_limit` of them; `about` is said there. A gather has
  more in hand always: of a reduction the last one is given up, of a batch all. ]]
-- A dead letter: its kind, how long what is said about it is, that, and the item as a chunk of its own (letters.py).
local function give_up(i, id, counts, payload, kind, about)
  local n, start, crashes, losses, raises = unpack(counts)
  local tries = crashes + losses + raises
  local path = ''
  if FLOW then
    local position = num(i, 'done') + num(i, 'dead') + num(i, 'cancelled')  -- where a gather's outputs are
    path = is_gather(i) and position .. ':' .. (position + n) .. ':0' or next_path(counts, true)
  end
  local told = told_of(i, counts)
  told.attempt, told.said, told.payload = tries, in_words(about), #payload <= 16 * MOST_BYTES and payload or nil
  local is_result = get(i, 'on_error') == 'return'  -- then what became of it is no letter, but told to its reader alone
  add(i, is_result and 'done' or 'dead', n)
  if is_result then add(i, 'failed', n) end
  add(i, 'bytes', -#payload)
  note_failure(i, is_result and 'failed' or 'dead', id, told)
  if not is_result then
    redis.call('HSET', key(i, DEAD), string.match(id, '^[^/]+') .. '#' .. start,
      kind .. struct.pack('<I4', #about) .. about .. pack_chunk(counts, payload))
  end
  -- A stage's results nobody reads, but for the errors of a flow's; nor those of a queue without a function.
  local shown = (get(i, 'identity') or '') ~= '' and (i == DEPTH or (is_result and FLOW))
  local result = kind .. tries .. ' ' .. about
  if FLOW and shown then
    show(i, path, n, id, result)
  elseif FLOW then
    pass(i, path)
  elseif shown and get(i, 'results') ~= 'discard' then
    redis.call('XADD', key(i, RESULTS), '*', id, result)
    if get(i, 'results') == 'once' then add(i, 'unread', n) end
  end
end

local function giveback(i, ticket, how, about, at, late, delay)
  local held = redis.call('HGET', key(i, HELD), ticket)
  redis.call('ZREM', key(i, TICKETS), ticket)
  if not held then return 0 end
  redis.call('HDEL', key(i, HELD), ticket)
  local ids = {}
  for id in string.gmatch(held, ' (%S+) %d+ %d+') do ids[#ids + 1] = id end
  if #ids == 0 then return 0 end
  add(i, 'holding', -1)
  if get(i, 'alone') == ticket then set(i, 'alone', '') end
  local function ready_again(id, counts, payload)
    redis.call('HSET', key(i, CHUNKS), id, pack_chunk(counts, payload))
    redis.call('LPUSH', key(i, READY), id)
    add(i, 'ready', counts[1])
    if is_suspect(i, counts) then add(i, 'suspects', 1) end
  end
  local function blamed(place)
    return is_gather(i) and (get(i, 'gather') ~= 'reduce' or place == #ids)
  end
  for place = #ids, 1, -1 do
    local id = ids[place]
    local value = redis.call('HGET', key(i, CHUNKS), id)
    local whole = {unpack_chunk(value)}
    local n, start, crashes, losses, raises = unpack(whole)
    local payload = string.sub(value, whole[PAYLOAD])
    local root = string.match(id, '^[^/]+')
    local function counts(n, start, crashes, losses, raises)
      local of = counts_of(whole, n, start)
      of[CRASHES], of[LOSSES], of[RAISES] = crashes, losses, raises
      return of
    end
    local function part(first, past) return root .. '/' .. first .. ':' .. past end
    redis.call('HDEL', key(i, CHUNKS), id)
    add(i, 'leased', -n)
    if how ~= 'return' then
      local told = told_of(i, whole)
      told.said, told.ticket = how .. ': ' .. in_words(about), ticket
      note_failure(i, 'returned', id, told)
    end
    if how == 'crash' then crashes = math.min(crashes + 1, 255) end
    if how == 'lost' then losses = math.min(losses + 1, 255) end
    if how == 'return' and place == 1 and at > 0 then
      at = math.min(at, n)
      add(i, 'done', at)
      start, n = start + at, n - at
      id = part(start, start + n)
    end
    local died = how == 'crash' or how == 'lost'
    if n == 0 then
      add(i, 'bytes', -#payload)
    elseif how == 'timeout' and ids[place] == late and at < n then
      local item, past = start + at, start + n
      if item + 1 < past then
        add(i, 'bytes', #payload)
        ready_again(part(item + 1, past), counts(past - item - 1, item + 1, crashes, losses, raises), payload)
      end
      if n > 1 then id = part(item, item + 1) end
      local late_one = counts(1, item, crashes, losses, math.min(raises + 1, 255))
      if delay < 0 then
        give_up(i, id, late_one, payload, 'T', about)
      else
        redis.call('HSET', key(i, CHUNKS), id, pack_chunk(late_one, payload))
        redis.call('ZADD', key(i, DELAYED), now() + delay, id)
        add(i, 'delayed', 1)
      end
      if at > 0 then
        add(i, 'bytes', #payload)
        ready_again(part(start, item), counts(at, start, crashes, losses, raises), payload)
      end
    elseif died and n == 1 and (#ids == 1 or blamed(place)) and crashes + losses >= num(i, 'crash_limit') then
      give_up(i, id, counts(n, start, crashes, losses, raises), payload, 'L', about)
    elseif died and n > 1 and crashes + losses >= 2 then
      local half, after = math.floor(n / 2), losses > 0 and {0, 1} or {1, 0}
      add(i, 'bytes', #payload)
      ready_again(part(start + half, start + n), counts(n - half, start + half, after[1], after[2], raises), payload)
      ready_again(part(start, start + half), counts(half, start, after[1], after[2], raises), payload)
    else
      ready_again(id, counts(n, start, crashes, losses, raises), payload)
    end
  end
  ring(i, redis.call('LLEN', key(i, READY)))
  if FLOW then
    say()
    for j, chunks in pairs(woken) do ring(j, chunks) end
  end
  ring_producers(i)
  return #ids
end
