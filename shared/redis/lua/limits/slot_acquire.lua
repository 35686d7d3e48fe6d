-- Acquire one of a limited number of concurrency slots. A slot expires, by the server's clock, unless it is renewed.
-- KEYS: slots by the time in ms at which they expire
-- ARGV: holder, number of slots, lease in ms
-- Returns 1, or 0 when none is free.
-- include commands/now
local slots = KEYS[1]
local holder, limit, lease_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

redis.call('ZREMRANGEBYSCORE', slots, '-inf', now)
-- No lease ends later: the server's clock was set back.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', slots, '(' .. now + lease_ms, '+inf')) do
  redis.call('ZADD', slots, now + lease_ms, other)
end
if not redis.call('ZSCORE', slots, holder) and redis.call('ZCARD', slots) >= limit then
  return 0
end
redis.call('ZADD', slots, now + lease_ms, holder)
return 1
