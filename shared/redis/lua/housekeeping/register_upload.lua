-- Register that input images of a job are about to be stored, so that they can be deleted if the job is never accepted.
-- KEYS: uploads by time in ms
-- ARGV: id, age in ms after which an entry is removed
-- Returns 1.
-- include commands/now
local uploads = KEYS[1]
local id, max_age_ms = ARGV[1], ARGV[2]

redis.call('ZREMRANGEBYSCORE', uploads, '-inf', now - max_age_ms)
redis.call('ZADD', uploads, now, id)
return 1
