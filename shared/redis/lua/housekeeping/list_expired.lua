-- Jobs whose time has run out, by the server's clock.
-- KEYS: leases or deadlines    ARGV: most to return
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ms, 'LIMIT', 0, ARGV[1])
