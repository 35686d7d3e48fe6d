-- Note that images are about to lie where a job will find them, so that they can be removed if it is never accepted.
-- KEYS: uploads by time    ARGV: id, how long that is worth knowing in ms
local now = redis.call('TIME')
local ms = now[1] * 1000 + math.floor(now[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ms - ARGV[2])
redis.call('ZADD', KEYS[1], ms, ARGV[1])
return 1
