-- Move a job, if it is still where the mover believes it to be: compare-and-set on (state, attempt).
-- KEYS: record, events, index of the old state, index of the new state, queue, shares, wake-ups, leases,
--       duration statistics, deadlines, the owner's jobs that have not ended, counts
-- Returns 1, or 0 when somebody else moved it first or it is gone.
-- include queue/fair_queue
-- include webhooks/outbox
local record, events, old_index, new_index, leases = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[8]
local durations, deadlines, active, counts = KEYS[9], KEYS[10], KEYS[11], KEYS[12]
local q = { queue = KEYS[5], shares = KEYS[6], wake_ups = KEYS[7] }
local id, channel, old, old_attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local new, new_attempt, doc = ARGV[5], ARGV[6], ARGV[7]
local owner, rank, images, wake_up, worker = ARGV[8], ARGV[9], tonumber(ARGV[10]), ARGV[11], ARGV[12]
-- '' unless it ends; '' unless it succeeded.
local events_lifetime_ms, kind, spent_ms = ARGV[13], ARGV[14], ARGV[15]
local lease_ms, webhooks = ARGV[16], ARGV[17]
local first_count = 18
local EVENT_NAMES = { running = 'started', succeeded = 'succeeded', failed = 'failed', cancelled = 'cancelled' }
local MOST_KINDS = 256

local held = redis.call('HMGET', record, 'state', 'attempt')
if held[1] ~= old or held[2] ~= old_attempt then
  return 0
end
redis.call('HSET', record, 'doc', doc, 'state', new, 'attempt', new_attempt)
redis.call('HDEL', record, 'progress')
redis.call('ZREM', old_index, id)
redis.call('ZADD', new_index, 0, id)
redis.call('ZREM', deadlines, id)
if new == 'running' then
  local now = redis.call('TIME')
  redis.call('ZADD', leases, now[1] * 1000 + math.floor(now[2] / 1000) + lease_ms, id)
  redis.call('HSET', record, 'worker', worker)
  QUEUE.start(q, record, id)
elseif new == 'queued' then
  redis.call('ZREM', leases, id)
  QUEUE.push_back(q, record, id, rank)
else
  redis.call('ZREM', leases, id)
  QUEUE.withdraw(q, id, rank, owner, images)
end
if old == 'queued' or new == 'queued' then
  QUEUE.wake(q, wake_up)
end
local type = 'state'
if events_lifetime_ms ~= '' then
  type = 'done'
  redis.call('HDEL', record, 'cancel', 'expected', 'score', 'worker')
  redis.call('SREM', active, id)
end
if kind ~= '' then
  -- A mean that forgets: the newest run counts for three tenths.
  for _, field in ipairs({kind, '*'}) do
    local mean = tonumber(redis.call('HGET', durations, field) or spent_ms)
    redis.call('HSET', durations, field, math.floor(0.7 * mean + 0.3 * spent_ms + 0.5))
  end
  if redis.call('HLEN', durations) > MOST_KINDS then
    for _, field in ipairs(redis.call('HRANDFIELD', durations, 3)) do
      if field ~= '*' and field ~= kind then
        redis.call('HDEL', durations, field)
        break
      end
    end
  end
end
for i = first_count, #ARGV, 2 do
  redis.call('HINCRBY', counts, ARGV[i], ARGV[i + 1])
end
local event = redis.call('XADD', events, '*', 'type', type, 'data', new)
if events_lifetime_ms ~= '' then
  redis.call('PEXPIRE', events, events_lifetime_ms)
end
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' ' .. type .. ' ' .. new)
local name = EVENT_NAMES[new]
if name then
  OUTBOX.tell(webhooks, record, id, name, id .. '_' .. name .. '_' .. new_attempt, doc, '')
end
return 1
