-- Renew concurrency slots. A slot that was released meanwhile stays released.
-- KEYS: slots by the time in ms at which they expire
-- ARGV: lease in ms, then the holders
-- Returns 1.
-- include limits/full_server
local slots = KEYS[1]
local lease_ms, first_holder = ARGV[1], 2

local clock = redis.call('TIME')
local expires_at = clock[1] * 1000 + math.floor(clock[2] / 1000) + lease_ms
for i = first_holder, #ARGV do
  redis.call('ZADD', slots, 'XX', expires_at, ARGV[i])
end
return 1
