-- Keep a model in memory, or end that.
-- KEYS: pinned models of the backend
-- ARGV: model, '1' to pin, '' to unpin
-- Returns 1.
local pinned = KEYS[1]
local model, is_pinned = ARGV[1], ARGV[2] ~= ''

redis.call(is_pinned and 'SADD' or 'SREM', pinned, model)
return 1
