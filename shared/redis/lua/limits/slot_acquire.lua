-- Acquire one of a limited number of concurrency slots. A slot expires, by the server's clock, unless it is renewed.
-- KEYS: slots by the time in ms at which they expire
-- ARGV: holder, number of slots, lease in ms
-- Returns 1, or 0 when none is free.
-- include commands/now
-- include limits/full_server
local slots = KEYS[1]
local holder, limit, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

-- Half a lease more for its holder: nobody could renew it while this server was away or the machine slept. The fraction
-- of a millisecond marks a slot that was kept once, until it is renewed.
local expired = redis.call('ZRANGEBYSCORE', slots, '-inf', now, 'WITHSCORES')
for i = 1, #expired, 2 do
  if expired[i + 1] % 1 == 0 then
    redis.call('ZADD', slots, now + lease_ms / 2 + 0.5, expired[i])
  else
    redis.call('ZREM', slots, expired[i])
  end
end
-- No lease ends later: the server's clock was set back.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', slots, '(' .. now + lease_ms, '+inf')) do
  redis.call('ZADD', slots, now + lease_ms, other)
end
if not redis.call('ZSCORE', slots, holder) and redis.call('ZCARD', slots) >= limit then
  return 0
end
redis.call('ZADD', slots, now + lease_ms, holder)
return 1
