-- Store the record of a living worker.
-- KEYS: its record, index of workers by the time in ms at which they expire, models in the memory of workers
-- ARGV: id, record as JSON, lifetime in ms, its models in memory as fields of a JSON object ('' for none)
-- Returns 1. The server's clock counts, so that clocks of machines may differ.
-- include limits/full_server
-- include commands/now
local record, workers, residency = KEYS[1], KEYS[2], KEYS[3]
local id, content, lifetime_ms, models = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

redis.call('SET', record, content, 'PX', lifetime_ms)
redis.call('ZADD', workers, now + lifetime_ms, id)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now)
if models ~= '' then
  redis.call('HSET', residency, id, string.format('{"at":%d,%s}', now, models))
end
return 1
