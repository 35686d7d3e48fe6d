-- Count a request of somebody, and then, in the same step, do what the script behind this one does.
-- KEYS: until when this somebody has used up its share, then those of the script
-- ARGV: microseconds that a request uses up, microseconds that may be used up ahead of time, then those of the script
-- Returns the error 'RATE <milliseconds to wait>' for a request too many, and the script is not run.
local until_when, cost, ahead = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local used = math.max(tonumber(redis.call('GET', until_when) or 0), us)
if used - us > ahead then
  return redis.error_reply('RATE ' .. math.ceil((used - us - ahead) / 1000))
end
redis.call('SET', until_when, string.format('%.0f', used + cost), 'PX', math.ceil((used + cost - us) / 1000))
local KEYS, ARGV = {unpack(KEYS, 2)}, {unpack(ARGV, 3)}
