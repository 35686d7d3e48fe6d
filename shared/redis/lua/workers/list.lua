-- Read the living workers and, per backend, what is known of it.
-- KEYS: index of workers
-- ARGV: prefixes of worker records, capabilities, queues, duration stats, start failures, load stats, sources of models and
--       pinned models; then the backends
-- Returns {{worker records}, {per backend: {capabilities or '', queued jobs, duration stats as a flat list, reason of the
-- last failed start or '', load stats as a flat list, sources of models as a flat list, pinned models}}, server time in ms}.
local workers = KEYS[1]
local worker_prefix, capabilities_prefix, queue_prefix, durations_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local failures_prefix, loads_prefix, sources_prefix, pinned_prefix = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local first_backend = 9

local records, backends = {}, {}
for _, id in ipairs(redis.call('ZRANGE', workers, 0, -1)) do
  local record = redis.call('GET', worker_prefix .. id)
  if record then
    records[#records + 1] = record
  end
end
for i = first_backend, #ARGV do
  local backend = ARGV[i]
  backends[#backends + 1] = {
    redis.call('GET', capabilities_prefix .. backend) or '',
    redis.call('ZCARD', queue_prefix .. backend),
    redis.call('HGETALL', durations_prefix .. backend),
    redis.call('HGET', failures_prefix .. backend, 'reason') or '',
    redis.call('HGETALL', loads_prefix .. backend),
    redis.call('HGETALL', sources_prefix .. backend),
    redis.call('SMEMBERS', pinned_prefix .. backend),
  }
end
local clock = redis.call('TIME')
return { records, backends, clock[1] * 1000 + math.floor(clock[2] / 1000) }
