-- Store the capabilities of a backend, of which a worker is ready.
-- KEYS: its capabilities, its start failures
-- ARGV: capabilities as JSON
-- Returns 1.
-- include limits/full_server
local stored, failures = KEYS[1], KEYS[2]
local capabilities = ARGV[1]

redis.call('SET', stored, capabilities)
redis.call('DEL', failures)
return 1
