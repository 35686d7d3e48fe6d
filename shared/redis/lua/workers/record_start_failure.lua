-- A worker could not load its model, and ends.
-- KEYS: failures of its backend    ARGV: why, lifetime in ms
-- Returns how many have failed in a row.
redis.call('HSET', KEYS[1], 'reason', ARGV[1])
local failures = redis.call('HINCRBY', KEYS[1], 'count', 1)
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return failures
