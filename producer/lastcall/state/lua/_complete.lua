--[[ _complete: what a ticket's hand came to. Completing a chunk removes it, appends its outputs downstream and counts
  it; a chunk that is not in the hand was completed before (the reply was lost), and is passed over.
  hand: chunk id -> {items, bytes}. Gives the number of outputs, and removes from `hand` what is complete. ]]
local function complete(i, hand, took)
  local at = took + 2
  local completed, agains, entry = {}, {}, {}
  local items, done, dead, shown, bytes, outputs = 0, 0, 0, 0, 0, 0
  local down = DEPTH > i and get(i + 1, 'state')
  local open = down and not has_ended(down)  -- outputs for a queue that was cancelled go nowhere
  for _ = 1, tonumber(ARGV[at - 1]) do
    local id = ARGV[at]
    local held = hand[id]
    if held then
      hand[id] = nil
      completed[#completed + 1] = id
      items = items + held[1]
      bytes = bytes + held[2]
      done = done + ARGV[at + 1]
      dead = dead + ARGV[at + 2]
      if ARGV[at + 3] ~= '' then
        entry[#entry + 1] = id
        entry[#entry + 1] = 'O' .. ARGV[at + 3]
        shown = shown + ARGV[at + 1] + ARGV[at + 2]
      end
    end
    local n_out = tonumber(ARGV[at + 4])
    at = at + 5
    for _ = 1, n_out do
      if held and open then
        redis.call('HSET', key(i + 1, CHUNKS), ARGV[at], pack_chunk({tonumber(ARGV[at + 1]), 0, 0, 0, 0}, ARGV[at + 2]))
        redis.call('RPUSH', key(i + 1, READY), ARGV[at])
        add(i + 1, 'put', tonumber(ARGV[at + 1]))
        add(i + 1, 'ready', tonumber(ARGV[at + 1]))
        add(i + 1, 'bytes', #ARGV[at + 2])
        outputs = outputs + 1
      end
      at = at + 3
    end
    local n_again = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, n_again do
      if held then
        -- One item, to be tried again alone: its index, raises, the delay in ms, its payload, crashes, losses.
        local start = tonumber(ARGV[at])
        local again = string.match(id, '^[^/]+') .. '/' .. start .. ':' .. (start + 1)
        -- Set after what is complete was removed: an item that was alone goes on under the same id.
        agains[#agains + 1] = {again, pack_chunk({1, start, tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 1])}, ARGV[at + 3])}
        redis.call('ZADD', key(i, DELAYED), now() + ARGV[at + 2], again)
        add(i, 'delayed', 1)
        add(i, 'bytes', #ARGV[at + 3])
      end
      at = at + 6
    end
    local n_dead = tonumber(ARGV[at])
    at = at + 1
    for _ = 1, n_dead do
      if held then redis.call('HSET', key(i, DEAD), ARGV[at], 'S' .. ARGV[at + 1]) end
      at = at + 2
    end
  end
  if #completed == 0 then return 0 end
  redis.call('HDEL', key(i, CHUNKS), unpack(completed))
  for _, again in ipairs(agains) do redis.call('HSET', key(i, CHUNKS), again[1], again[2]) end
  add(i, 'leased', -items)
  add(i, 'done', done)
  add(i, 'dead', dead)
  add(i, 'bytes', -bytes)
  add(i, 'busy', tonumber(ARGV[took]))
  if #entry > 0 then
    redis.call('XADD', key(i, RESULTS), '*', unpack(entry))
    if get(i, 'results') == 'once' then add(i, 'unread', shown) end
  end
  if outputs > 0 then ring(i + 1, outputs) end
  ring_producers(i)
  return outputs
end
