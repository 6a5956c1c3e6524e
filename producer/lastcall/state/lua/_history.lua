--[[ _history: what happened, for the history of the job (history.py): a field "kind queue chunk" and a msgpack map for each
  event. A queue's `record` says what: "failures", "times" (everything, without arguments), "all"; other queues have none. ]]
local MOST_ENTRIES, MOST_BYTES = 10000, 4096  -- of the stream; of a chunk's arguments, or results, that are kept
local happened, failed = {}, {}
local function is_recorded(i) return (get(i, 'record') or '') ~= '' and get(i, 'record') ~= 'failures' end
local function nothing() end
local note, note_bytes, note_failure, note_failure_bytes = nothing, nothing, nothing, nothing
if DEPTH > 1 or (get(1, 'record') or '') ~= '' then  -- each function costs a call a little
  function note_bytes(i, kind, id, told)
    happened[#happened + 1] = kind .. ' ' .. get(i, 'name') .. ' ' .. id
    happened[#happened + 1] = told
  end
  function note(i, kind, id, told)
    if is_recorded(i) then note_bytes(i, kind, id, cmsgpack.pack(told)) end
  end

  function note_failure_bytes(i, kind, id, told)
    failed[#failed + 1] = kind .. ' ' .. get(i, 'name') .. ' ' .. id
    failed[#failed + 1] = told
  end
  function note_failure(i, kind, id, told)
    if (get(i, 'record') or '') ~= '' then note_failure_bytes(i, kind, id, cmsgpack.pack(told)) end
  end

  -- What one script has made true is one entry of a stream, unless there is too much of it.
  at_reply[#at_reply + 1] = function()
    for at = 1, #happened, 2000 do
      redis.call('XADD', key(1, EVENTS), 'MAXLEN', '~', MOST_ENTRIES, '*', unpack(happened, at, math.min(at + 1999, #happened)))
    end
    for at = 1, #failed, 2000 do
      redis.call('XADD', key(1, FAILURES), '*', unpack(failed, at, math.min(at + 1999, #failed)))
    end
  end
end

-- What a chunk is that a script tells of.
local function told_of(counts)
  return {items = counts[N], first = counts[START], attempt = counts[CRASHES] + counts[LOSSES] + counts[RAISES] + 1,
    path = counts[PATH] or ''}
end
