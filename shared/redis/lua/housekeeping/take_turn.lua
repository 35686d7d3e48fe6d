-- Let one of several processes do a periodic task.
-- KEYS: the turn
-- ARGV: its length in ms
-- Returns 1, or 0 while another process has the turn.
-- include limits/full_server
local turn = KEYS[1]
local length_ms = ARGV[1]

return redis.call('SET', turn, 1, 'NX', 'PX', length_ms) and 1 or 0
