-- Renew concurrency slots. A slot that was released meanwhile stays released.
-- KEYS: slots by the time in ms at which they expire
-- ARGV: lease in ms, then the holders
-- Returns 1.
-- include limits/full_server
-- include commands/now
local slots = KEYS[1]
local lease_ms, first_holder = ARGV[1], 2

local expires_at = now + lease_ms
for i = first_holder, #ARGV do
  redis.call('ZADD', slots, 'XX', expires_at, ARGV[i])
end
return 1
