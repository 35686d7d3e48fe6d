-- Note that a worker begins to load a model. A load that ends its process is never noted as ended.
-- KEYS: unfinished loads
-- ARGV: model and revision, lifetime in ms
-- Returns how many loads of it have not ended, this one included.
local unfinished = KEYS[1]
local model, lifetime_ms = ARGV[1], ARGV[2]

local count = redis.call('HINCRBY', unfinished, model, 1)
redis.call('PEXPIRE', unfinished, lifetime_ms)
return count
