-- Move a job between states: compare-and-set on (state, attempt).
-- KEYS: record, events, index of the old state, index of the new state, queue, shares, wake-ups, leases, duration stats,
--       deadlines, unfinished jobs of the owner, counts
-- ARGV: see the locals, then pairs of a counter and its increment. Durations are in ms; '' stands for none.
-- Returns 1, or 0 when another process moved the job first or it is deleted; also for a job that would return to the queue
-- although it was cancelled.
-- include limits/full_server
-- include queue/fair_queue
-- include webhooks/outbox
local record, events, old_index, new_index, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[8]
local duration_stats, deadlines, unfinished, counts = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local q = { queue = KEYS[5], shares = KEYS[6], wake_ups = KEYS[7] }
local id, channel, old_state, old_attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local new_state, new_attempt, doc = ARGV[5], ARGV[6], ARGV[7]
local owner, rank, num_images, wake_up, worker = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]
-- Given for a job that ends, and for one that succeeds.
local events_lifetime_ms, workload, work_ms = ARGV[13], ARGV[14], ARGV[15]
local lease_ms, webhooks, first_count = ARGV[16], ARGV[17], 18
local WEBHOOK_EVENTS = { running = 'started', succeeded = 'succeeded', failed = 'failed', cancelled = 'cancelled' }
local MAX_WORKLOADS = 256

local current = redis.call('HMGET', record, 'state', 'attempt', 'cancel')
if current[1] ~= old_state or current[2] ~= old_attempt or (current[3] and new_state == 'queued') then
  return 0
end
redis.call('HSET', record, 'doc', doc, 'state', new_state, 'attempt', new_attempt)
redis.call('HDEL', record, 'progress')
redis.call('ZREM', old_index, id)
redis.call('ZADD', new_index, 0, id)
redis.call('ZREM', deadlines, id)
if new_state == 'running' then
  redis.call('ZADD', leases, now + lease_ms, id)
  redis.call('HSET', record, 'worker', worker)
  QUEUE.start(q, record, id)
elseif new_state == 'queued' then
  redis.call('ZREM', leases, id)
  QUEUE.push_back(q, record, id, rank)
else
  redis.call('ZREM', leases, id)
  QUEUE.withdraw(q, id, rank, owner, num_images, unfinished)
end
if old_state == 'queued' or new_state == 'queued' then
  QUEUE.wake(q, wake_up)
end
local event_type = 'state'
if events_lifetime_ms ~= '' then
  event_type = 'done'
  redis.call('HDEL', record, 'cancel', 'expected', 'score', 'worker')
  redis.call('SREM', unfinished, id)
end
if workload ~= '' then
  -- Exponential moving average: the newest run has a weight of 0.3.
  for _, field in ipairs({ workload, '*' }) do
    local mean = tonumber(redis.call('HGET', duration_stats, field) or work_ms)
    redis.call('HSET', duration_stats, field, math.floor(0.7 * mean + 0.3 * work_ms + 0.5))
  end
  if redis.call('HLEN', duration_stats) > MAX_WORKLOADS then
    for _, field in ipairs(redis.call('HRANDFIELD', duration_stats, 3)) do
      if field ~= '*' and field ~= workload then
        redis.call('HDEL', duration_stats, field)
        break
      end
    end
  end
end
for i = first_count, #ARGV, 2 do
  redis.call('HINCRBY', counts, ARGV[i], ARGV[i + 1])
end
local event = redis.call('XADD', events, '*', 'type', event_type, 'data', new_state)
if events_lifetime_ms ~= '' then
  redis.call('PEXPIRE', events, events_lifetime_ms)
end
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' ' .. event_type .. ' ' .. new_state)
local webhook_event = WEBHOOK_EVENTS[new_state]
if webhook_event then
  OUTBOX.add(webhooks, record, id, webhook_event, id .. '_' .. webhook_event .. '_' .. new_attempt, doc, '')
end
return 1
