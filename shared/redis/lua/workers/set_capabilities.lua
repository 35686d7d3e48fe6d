-- A worker is ready.
-- KEYS: what its backend can do, failures of the backend    ARGV: its capabilities
redis.call('SET', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[2])
return 1
