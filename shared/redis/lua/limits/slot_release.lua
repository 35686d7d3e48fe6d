-- Give a place back.
-- KEYS: places by the time at which they lapse    ARGV: who had it
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
