-- Remove the record of a worker that ends.
-- KEYS: its record, index of workers
-- ARGV: id
-- Returns 1.
local record, workers = KEYS[1], KEYS[2]
local id = ARGV[1]

redis.call('DEL', record)
redis.call('ZREM', workers, id)
return 1
