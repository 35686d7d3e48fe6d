-- Note that a load has ended, whether it succeeded or not.
-- KEYS: unfinished loads
-- ARGV: model and revision
-- Returns 1.
local unfinished = KEYS[1]
local model = ARGV[1]

redis.call('HDEL', unfinished, model)
return 1
