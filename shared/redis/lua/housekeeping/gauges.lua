-- Read the figures of all jobs and webhooks.
-- KEYS: counts, index of running jobs, index of queued jobs, pending webhooks, dead webhooks
-- ARGV: prefixes of queues, of indexes by backend and of records; then the backends
-- Returns {counts as a flat list, {queued jobs per backend}, {running jobs per backend}, {id that has waited longest or ''
-- per backend}, pending webhooks, dead webhooks}.
local counts, running_index, queued_index, pending_webhooks, dead_webhooks = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local queue_prefix, backend_prefix, record_prefix, first_backend = ARGV[1], ARGV[2], ARGV[3], 4
local MAX_EXAMINED = 200

local queued, running, oldest, position = {}, {}, {}, {}
for i = first_backend, #ARGV do
  queued[#queued + 1] = redis.call('ZCARD', queue_prefix .. ARGV[i])
  running[#running + 1] = #redis.call('ZINTER', 2, running_index, backend_prefix .. ARGV[i])
  oldest[#oldest + 1] = ''
  position[ARGV[i]] = #oldest
end
-- Ids sort by creation.
for _, id in ipairs(redis.call('ZRANGE', queued_index, 0, MAX_EXAMINED - 1)) do
  local i = position[redis.call('HGET', record_prefix .. id, 'backend')]
  if i and oldest[i] == '' then
    oldest[i] = id
  end
end
local flat = redis.call('HGETALL', counts)
return { flat, queued, running, oldest, redis.call('ZCARD', pending_webhooks), redis.call('ZCARD', dead_webhooks) }
