-- Take one of a limited number of places. A place lapses unless it is kept, by the server's clock.
-- KEYS: places by the time at which they lapse    ARGV: who takes it, how many there are, lifetime in ms
-- Returns 1, or 0 when none is free.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms)
if not redis.call('ZSCORE', KEYS[1], ARGV[1]) and redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[2]) then
  return 0
end
redis.call('ZADD', KEYS[1], ms + ARGV[3], ARGV[1])
return 1
