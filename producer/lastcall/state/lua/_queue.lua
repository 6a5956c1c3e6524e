--[[ _queue: names for KEYS, the fields of a queue's meta, and the clock. Included by every script.
  KEYS are sixteen for each queue (state/keys.py): first the queue itself, then each queue downstream of it.
  Fields are read once and written once, by reply(): a call inside a script costs more than all else in it. ]]
local META, CHUNKS, READY, DELAYED, TICKETS, HELD = 1, 2, 3, 4, 5, 6
local PRODUCERS, LEASES, RESULTS, DEAD, GATE, BELL, ROOM, JOB, EVENTS, FAILURES = 7, 8, 9, 10, 11, 12, 13, 14, 15, 16
local DEPTH = #KEYS / 16
local OK, NOTHING, LOST, ENDED, UNKNOWN, FULL, MISMATCH = 1, 0, -1, -2, -3, -4, -5
-- In front of a chunk's payload: items, first item, crashes, losses, raises; where it has a place in an order, the items
-- of its root, the outputs and chunks of outputs that were emitted of it, and its root's path (_path.lua).
local HEADER = '<I4I4BBBI4I4I4Hc0'
local N, START, CRASHES, LOSSES, RAISES = 1, 2, 3, 4, 5
local TOTAL, SKIP, PARTS, PATH, PAYLOAD = 6, 7, 8, 9, 10
-- The counts of a chunk, the last of which is where its payload begins.
local function unpack_chunk(value) return struct.unpack(HEADER, value) end
local function pack_chunk(counts, payload)
  local n, start, crashes, losses, raises, total, skip, parts, path = unpack(counts)
  path = path or ''
  return struct.pack(HEADER, n, start, crashes, losses, raises, total or 0, skip or 0, parts or 0, #path, path) .. payload
end
-- As another one's, but for how many items it has and which is the first.
local function counts_of(other, n, start)
  local counts = {unpack(other)}
  counts[N], counts[START] = n, start
  return counts
end

local function key(i, part) return KEYS[(i - 1) * 16 + part] end

local read, changed = {}, {}
local function load(i, ...)
  local fields = read[i] or {}
  read[i] = fields
  local values = redis.call('HMGET', key(i, META), ...)
  for at, name in ipairs({...}) do
    if fields[name] == nil then fields[name] = values[at] end  -- else it may have been changed since
  end
end
local function get(i, field)
  if not read[i] or read[i][field] == nil then load(i, field) end
  return read[i][field]
end
local function num(i, field) return tonumber(get(i, field) or 0) end
local function set(i, field, value)
  if not read[i] then read[i] = {} end
  if not changed[i] then changed[i] = {} end
  read[i][field] = value
  changed[i][field] = value
end
local function add(i, field, n)
  if n ~= 0 then set(i, field, num(i, field) + n) end
end
local function save()
  for i, fields in pairs(changed) do
    local flat = {}
    for field, value in pairs(fields) do
      flat[#flat + 1] = field
      flat[#flat + 1] = value
    end
    redis.call('HSET', key(i, META), unpack(flat))
  end
  changed = {}
end
local at_reply = {}  -- what is left to be done when all is known
local function reply(...)
  for _, finish in ipairs(at_reply) do finish() end
  save()
  return {...}
end

-- An item alone that is one step from being given up, and may have been hit by what ran beside it: the next time it runs
-- while nothing else of the queue does, so that it is not blamed for another's crash.
local function is_suspect(i, counts)
  local n, _, crashes, losses = unpack(counts)
  return n == 1 and losses > 0 and crashes + losses >= num(i, 'crash_limit') - 1
end
-- Whether nobody may claim now: such an item runs, or is the next and waits for the others.
local function is_closed(i)
  if (get(i, 'alone') or '') ~= '' then return true end
  if num(i, 'suspects') == 0 or num(i, 'leased') == 0 then return false end
  local head = redis.call('LINDEX', key(i, READY), 0)
  return head and is_suspect(i, {unpack_chunk(redis.call('HGET', key(i, CHUNKS), head))})
end

-- Whether its slot takes many items together, in their order, and makes something else of them.
local function is_gather(i) return (get(i, 'gather') or '') ~= '' end

local function has_ended(state)
  return state == 'DRAINED' or state == 'INCOMPLETE' or state == 'CANCELLED'
end

local clock
local function now()
  if not clock then
    local time = redis.call('TIME')
    clock = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  return clock
end
