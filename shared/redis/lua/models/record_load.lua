-- Record that a model was loaded: how long it took, and how much memory it takes.
-- KEYS: load stats, counts
-- ARGV: model, duration in ms, size in bytes, then pairs of a counter and its increment
-- Returns 1.
local load_stats, counts = KEYS[1], KEYS[2]
local model, ms, size, first_count = ARGV[1], tonumber(ARGV[2]), ARGV[3], 4
local MAX_FIELDS = 8192

-- Exponential moving average: the newest load has a weight of 0.3.
local mean = tonumber(redis.call('HGET', load_stats, 'ms ' .. model) or ms)
if redis.call('HLEN', load_stats) > MAX_FIELDS then
  redis.call('HDEL', load_stats, redis.call('HRANDFIELD', load_stats))
end
redis.call('HSET', load_stats, 'ms ' .. model, math.floor(0.7 * mean + 0.3 * ms + 0.5), 'bytes ' .. model, size)
for i = first_count, #ARGV, 2 do
  redis.call('HINCRBY', counts, ARGV[i], ARGV[i + 1])
end
return 1
