-- KEYS: what a backend can do    ARGV: its capabilities
redis.call('SET', KEYS[1], ARGV[1])
return 1
