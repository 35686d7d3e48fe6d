-- Read how much memory a model took when it was loaded last.
-- KEYS: load stats
-- ARGV: model
-- Returns its size in bytes, as text; '0' if it is unknown.
local load_stats = KEYS[1]
local model = ARGV[1]

return redis.call('HGET', load_stats, 'bytes ' .. model) or '0'
