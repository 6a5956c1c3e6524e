--[[ _path: the order of what a flow's chunks come to. A chunk's path leads to it from the source: each of its steps,
  first:past:last, says that it is the interval [first, past) of its parent's children, and whether it is the last of them.
  The chunks that there are at a time are the leaves of one tree, so that exactly one comes next, however they were cut.
  Its place is the numbers of its first children, without zeros at the end: what "0:9:0/4:5:0" begins at is "0.4". ]]
local FLOW = get(1, 'flow')  -- whether the queue is a flow's: what follows is of no use to others
local step, path_of, next_path, place_of, follows, is_before
if FLOW then  -- each function costs a call a little
  function step(path, first, past, last)
    if path == '' then return '' end  -- it has no place in an order
    return path .. '/' .. first .. ':' .. past .. ':' .. (last and 1 or 0)
  end

  -- Of some items of a chunk that was put, or of a chunk.
  function path_of(counts, first, past)
    if counts[N] == counts[TOTAL] and first == counts[START] and past == first + counts[N] then return counts[PATH] end
    return step(counts[PATH], first, past, past == counts[TOTAL])
  end
  -- Of the part of its outputs that comes next, where some were emitted before; last: and none comes then.
  function next_path(counts, last)
    local path = path_of(counts, counts[START], counts[START] + counts[N])
    if counts[PARTS] == 0 and last then return path end
    return step(path, counts[PARTS], counts[PARTS] + 1, last)
  end

  function place_of(path)
    local place = {}
    for first in string.gmatch(path, '(%d+):%d+:%d') do place[#place + 1] = first end
    while place[#place] == '0' do place[#place] = nil end
    return table.concat(place, '.')
  end

  -- The place that comes next.
  function follows(path)
    local place, depth, length = {}, 0, 0
    for first, past, last in string.gmatch(path, '(%d+):(%d+):(%d)') do
      depth = depth + 1
      place[depth] = first
      if last == '0' then
        length = depth
        place.past = past
      end
    end
    place[length] = place.past
    return table.concat(place, '.', 1, length)
  end

  function is_before(place, other)
    local numbers = string.gmatch(other, '%d+')
    for number in string.gmatch(place, '%d+') do
      local against = tonumber(numbers() or 0)
      if tonumber(number) ~= against then return tonumber(number) < against end
    end
    for number in numbers do
      if tonumber(number) > 0 then return true end
    end
    return false
  end
end
