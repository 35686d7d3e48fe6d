-- Record that a worker could not load its model.
-- KEYS: start failures of its backend
-- ARGV: reason, lifetime in ms
-- Returns how many workers have failed in a row.
local failures = KEYS[1]
local reason, lifetime_ms = ARGV[1], ARGV[2]

redis.call('HSET', failures, 'reason', reason)
local count = redis.call('HINCRBY', failures, 'count', 1)
redis.call('PEXPIRE', failures, lifetime_ms)
return count
