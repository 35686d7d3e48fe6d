-- Remove the record of a worker that ends.
-- KEYS: its record, index of workers, models in the memory of workers
-- ARGV: id
-- Returns 1.
local record, workers, residency = KEYS[1], KEYS[2], KEYS[3]
local id = ARGV[1]

redis.call('DEL', record)
redis.call('ZREM', workers, id)
redis.call('HDEL', residency, id)
return 1
