-- Keep places for another lifetime. One that was given back meanwhile stays given back.
-- KEYS: places by the time at which they lapse    ARGV: lifetime in ms, who has them
local now = redis.call('TIME')
local lapse = now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[1]
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], 'XX', lapse, ARGV[i])
end
return 1
