-- Store the record of a living worker.
-- KEYS: its record, index of workers by the time in ms at which they expire
-- ARGV: id, record as JSON, lifetime in ms
-- Returns 1. The server's clock counts, so that clocks of machines may differ.
local record, workers = KEYS[1], KEYS[2]
local id, content, lifetime_ms = ARGV[1], ARGV[2], ARGV[3]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
redis.call('SET', record, content, 'PX', lifetime_ms)
redis.call('ZADD', workers, now + lifetime_ms, id)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
return 1
