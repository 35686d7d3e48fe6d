-- A worker says that it lives.
-- KEYS: its record, index of workers    ARGV: id, record, lifetime in ms
-- The index is kept by the server's clock, so that machines need not agree on the time.
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
redis.call('ZADD', KEYS[2], ms + ARGV[3], ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms)
return 1
