-- List jobs whose lease or deadline has passed, by the server's clock.
-- KEYS: leases or deadlines by time in ms
-- ARGV: most ids to return
-- Returns their ids.
local times = KEYS[1]
local limit = ARGV[1]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
return redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, limit)
