-- Release a concurrency slot.
-- KEYS: slots by the time in ms at which they expire
-- ARGV: holder
-- Returns 1.
local slots = KEYS[1]
local holder = ARGV[1]

redis.call('ZREM', slots, holder)
return 1
