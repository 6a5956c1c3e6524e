--[[ _history: what happened, for the history of the job (history.py): a field "kind queue chunk" and a msgpack map for each
  event. A queue's `record` says what: "failures", "times" (everything, without arguments), "all"; other queues have none. ]]
local MOST_ENTRIES, MOST_BYTES = 10000, 4096  -- of the stream; of a chunk's arguments, or results, that are kept
local MOST_KEPT, SMALL = 67108864, 1024  -- bytes of each stream; of an entry that does not count
local happened, failed = {}, {}
local forget_after  -- ms, where the job has ended
local function is_recorded(i) return (get(i, 'record') or '') ~= '' and get(i, 'record') ~= 'failures' end

local function note_bytes(i, kind, id, told)
  happened[#happened + 1] = kind .. ' ' .. get(i, 'name') .. ' ' .. id
  happened[#happened + 1] = told
end
local function note(i, kind, id, told)
  if is_recorded(i) then note_bytes(i, kind, id, cmsgpack.pack(told)) end
end

local function note_failure_bytes(i, kind, id, told)
  failed[#failed + 1] = kind .. ' ' .. get(i, 'name') .. ' ' .. id
  failed[#failed + 1] = told
end
local function note_failure(i, kind, id, told)
  if (get(i, 'record') or '') ~= '' then note_failure_bytes(i, kind, id, cmsgpack.pack(told)) end
end

-- What one script has made true is one entry of a stream, unless there is too much of it.
local function bytes_of(fields)
  local bytes = 0
  for _, field in ipairs(fields) do bytes = bytes + #field end
  return bytes
end
-- How many entries the stream may have: fewer, where they are large. What is usual for a large one follows those that come.
local function most_entries()
  local bytes = bytes_of(happened)
  if bytes <= SMALL then return MOST_ENTRIES end
  local usual = redis.call('HGET', key(1, JOB), 'usual') or bytes
  usual = math.ceil(usual + (bytes - usual) / 64)
  redis.call('HSET', key(1, JOB), 'usual', usual)
  return math.min(MOST_ENTRIES, math.ceil(MOST_KEPT / usual))
end
-- No failure goes. Where there are too many, the later ones have no traceback and no arguments.
local function bound_failures()
  if #failed == 0 or redis.call('HINCRBY', key(1, JOB), 'failures', bytes_of(failed)) <= MOST_KEPT then return end
  for at = 2, #failed, 2 do
    local told = cmsgpack.unpack(failed[at])
    told.traceback, told.payload = nil, nil
    failed[at] = cmsgpack.pack(told)
  end
end
at_reply[#at_reply + 1] = function()
  bound_failures()
  local most = #happened > 0 and most_entries()
  for at = 1, #happened, 2000 do
    redis.call('XADD', key(1, EVENTS), 'MAXLEN', '~', most, '*', unpack(happened, at, math.min(at + 1999, #happened)))
  end
  for at = 1, #failed, 2000 do
    redis.call('XADD', key(1, FAILURES), '*', unpack(failed, at, math.min(at + 1999, #failed)))
  end
  if forget_after then
    for _, part in ipairs({EVENTS, FAILURES}) do redis.call('PEXPIRE', key(1, part), forget_after) end
  end
end

-- Where and why a slot ended, "worker\twhy"; the worker is not always known.
local function in_words(about) return (string.gsub(string.gsub(about, '^\t', ''), '\t', ': ')) end

-- What a chunk is that a script tells of. Its place in the order is that of its items in the source only where they were
-- put (exact): each that went through a stage may have come to none, or to several.
local function told_of(i, counts)
  local path = counts[PATH] or ''
  local first, past = string.match(path, '^(%d+):(%d+):%d$')
  local exact = first and get(i, 'paths') == '1' and past - first == counts[TOTAL]
  return {items = counts[N], first = counts[START], attempt = counts[CRASHES] + counts[LOSSES] + counts[RAISES] + 1,
    path = path, exact = exact or nil}
end
