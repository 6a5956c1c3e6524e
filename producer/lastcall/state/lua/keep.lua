#!lua flags=allow-oom
--[[ keep: put off the deadlines of holders.
  KEYS  the thing's (_shared.lua)
  ARGV[1] writer   ARGV[2] number   ARGV[3] ttl   ARGV[4] kind   ARGV[5] lease in ms   ARGV[6...] holders
  Returns {1 OK, {holder that was given up, ...}} ]]
--@include _shared
local lost = {}
for at = 6, #ARGV do
  if redis.call('ZSCORE', KEYS[3], ARGV[at]) then
    redis.call('ZADD', KEYS[3], now() + ARGV[5], ARGV[at])
  else
    lost[#lost + 1] = ARGV[at]
  end
end
lasting()
return {OK, lost}
