-- Read the living workers and, per backend, what is known of it.
-- KEYS: index of workers, index of running jobs
-- ARGV: prefixes of worker records, capabilities, queues, duration stats, start failures, load stats, sources of models,
--       pinned models and job records; then the backends
-- Returns {{worker records}, {per backend: {capabilities or '', queued jobs, duration stats as a flat list, reason of the
-- last failed start or '', load stats as a flat list, sources of models as a flat list, pinned models}}, server time in ms,
-- for each running job the worker and how many ms it still needs: {worker, ms, ...}}.
-- include commands/now
local workers, running_index = KEYS[1], KEYS[2]
local worker_prefix, capabilities_prefix, queue_prefix, durations_prefix = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local failures_prefix, loads_prefix, sources_prefix, pinned_prefix = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local record_prefix, first_backend = ARGV[9], 10
local MAX_EXAMINED = 500

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
-- By the job's own estimate, else by similar jobs.
local remaining = {}
for _, id in ipairs(redis.call('ZRANGE', running_index, 0, MAX_EXAMINED - 1)) do
  local fields = redis.call('HMGET', record_prefix .. id, 'worker', 'progress', 'expected')
  local eta_seconds = string.match(fields[2] or '', '"eta_seconds":([%d.]+)')
  remaining[#remaining + 1] = fields[1] or ''
  remaining[#remaining + 1] = eta_seconds and math.floor(eta_seconds * 1000) or tonumber(fields[3] or 0)
end
return { records, backends, now, remaining }
