-- Read the living workers and, per backend, what is known of it.
-- KEYS: index of workers
-- ARGV: prefixes of worker records, capabilities, queues, duration stats and start failures; then the backends
-- Returns {{worker records}, {capabilities or '' per backend}, {queued jobs per backend}, {duration stats per backend, as a
-- flat list}, {reason of the last failed start or '' per backend}, server time in ms}.
local workers = KEYS[1]
local worker_prefix, capabilities_prefix, queue_prefix = ARGV[1], ARGV[2], ARGV[3]
local durations_prefix, failures_prefix, first_backend = ARGV[4], ARGV[5], 6

local records, capabilities, queued, durations, failures = {}, {}, {}, {}, {}
for _, id in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
  local record = redis.call('GET', worker_prefix .. id)
  if record then
    records[#records + 1] = record
  end
end
for i = first_backend, #ARGV do
  local backend = ARGV[i]
  capabilities[#capabilities + 1] = redis.call('GET', capabilities_prefix .. backend) or ''
  queued[#queued + 1] = redis.call('ZCARD', queue_prefix .. backend)
  durations[#durations + 1] = redis.call('HGETALL', durations_prefix .. backend)
  failures[#failures + 1] = redis.call('HGET', failures_prefix .. backend, 'reason') or ''
end
local clock = redis.call('TIME')
return { records, capabilities, queued, durations, failures, clock[1] * 1000 + math.floor(clock[2] / 1000) }
