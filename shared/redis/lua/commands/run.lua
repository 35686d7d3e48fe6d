-- Run one command of the server.
-- KEYS: its key
-- ARGV: its name, then what follows the key
-- Returns its reply.
return redis.call(ARGV[1], KEYS[1], unpack(ARGV, 2))
