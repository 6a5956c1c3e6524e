--[[ _queue: names for KEYS, the fields of a queue's meta, and the clock. Included by every script.
  KEYS are thirteen for each queue (state/keys.py): first the queue itself, then each queue downstream of it.
  Fields are read once and written once, by reply(): a call inside a script costs more than all else in it. ]]
local META, CHUNKS, READY, DELAYED, TICKETS, HELD = 1, 2, 3, 4, 5, 6
local PRODUCERS, LEASES, RESULTS, DEAD, BELL, ROOM, JOB = 7, 8, 9, 10, 11, 12, 13
local DEPTH = #KEYS / 13
local OK, NOTHING, LOST, ENDED, UNKNOWN, FULL, MISMATCH = 1, 0, -1, -2, -3, -4, -5
local HEADER = '<I4I4I2'

local function key(i, part) return KEYS[(i - 1) * 13 + part] end

local read, changed = {}, {}
local function load(i, ...)
  local fields = read[i] or {}
  read[i] = fields
  local values = redis.call('HMGET', key(i, META), ...)
  for at, name in ipairs({...}) do fields[name] = values[at] end
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
local function reply(...)
  save()
  return {...}
end

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
