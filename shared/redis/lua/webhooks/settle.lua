-- Record the outcome of an attempt to send a webhook.
-- KEYS: record of its job
-- ARGV: see the locals. Durations are in ms; '' stands for none.
-- Returns 1.
-- include limits/full_server
-- include webhooks/outbox
local record = KEYS[1]
local prefix, id, queue, attempt = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
-- 'delivered', 'pending', 'dropped' or 'dead'; HTTP status and error of the attempt; delay until the next one.
local state, status, error, delay_ms = ARGV[5], ARGV[6], ARGV[7], ARGV[8]
-- 'answered', 'refused' (the receiver takes nothing now) or 'unreachable'; '1' if it wants no more events of this job.
local receiver_state, is_gone = ARGV[9], ARGV[10] == '1'
local failures_before_cooldown, cooldown_ms, max_cooldown_ms = ARGV[11], ARGV[12], ARGV[13]
local dead_retention_ms, max_dead_per_owner = ARGV[14], ARGV[15]
local counts, count_field, increment = ARGV[16], ARGV[17], ARGV[18]
local HEALTH_LIFETIME_MS = 86400000

local webhook = prefix .. 'event:' .. id
local fields = redis.call('HMGET', webhook, 'attempts', 'next', 'owner')
local current_attempt, next_id, owner = fields[1], fields[2], fields[3]

local function count_failure(health)
  local excess = redis.call('HINCRBY', health, 'failures', 1) - failures_before_cooldown
  if excess >= 0 then
    redis.call('HSET', health, 'until', now + math.min(cooldown_ms * 2 ^ math.min(excess, 30), max_cooldown_ms))
  end
  redis.call('HDEL', health, 'trial')
  redis.call('PEXPIRE', health, HEALTH_LIFETIME_MS)
end

-- A failed connection concerns every queue of the origin; a refusal may concern one path of it.
local function update_health()
  local down, health = prefix .. 'down:' .. OUTBOX.origin(queue), prefix .. 'health:' .. queue
  if receiver_state == 'unreachable' then
    count_failure(down)
    return
  end
  redis.call('DEL', down)
  if receiver_state == 'refused' then
    count_failure(health)
  else
    redis.call('DEL', health)
  end
end

-- Delete the oldest dead webhooks beyond a limit, and entries of deleted ones.
local function trim(index, surplus)
  for position, dead_id in ipairs(redis.call('ZRANGE', index, 0, 9)) do
    if position <= surplus or redis.call('EXISTS', prefix .. 'event:' .. dead_id) == 0 then
      redis.call('ZREM', index, dead_id)
      redis.call('ZREM', prefix .. 'dead', dead_id)
      redis.call('DEL', prefix .. 'event:' .. dead_id)
    end
  end
end

local function give_up()
  local dead_of_owner = prefix .. 'dead:' .. owner
  redis.call('ZREM', prefix .. 'queue:' .. queue, id)
  OUTBOX.set_status(prefix, id, 'dead', 'pending')
  for _, key in ipairs({ webhook, prefix .. 'dead', dead_of_owner }) do
    redis.call('PEXPIRE', key, dead_retention_ms)
  end
  trim(dead_of_owner, redis.call('ZCARD', dead_of_owner) - max_dead_per_owner)
  trim(prefix .. 'dead', 0)
end

update_health()
-- After the lease has expired, the next attempt decides; but a delivered webhook is delivered.
local is_valid = current_attempt == attempt or state == 'delivered'
if not current_attempt or is_valid then
  OUTBOX.end_attempt(prefix, queue, id)
end
if is_valid and redis.call('ZSCORE', prefix .. 'pending', id) then
  redis.call('HSET', webhook, 'tried', now, 'status', status, 'error', error)
  redis.call('HINCRBY', counts, count_field, increment)
  local next_attempt_at = state == 'pending' and now + delay_ms or nil
  OUTBOX.save_delivery(prefix, record, id, state, next_attempt_at)
  if next_attempt_at then
    redis.call('ZADD', prefix .. 'queue:' .. queue, next_attempt_at, id)
  elseif state == 'dead' then
    give_up()
  else
    OUTBOX.delete(prefix, id)
  end
  local following = redis.call('HMGET', prefix .. 'event:' .. (next_id or ''), 'receiver', 'attempts')
  if following[2] == '0' then
    redis.call('ZADD', prefix .. 'queue:' .. following[1], now, next_id)
    OUTBOX.schedule(prefix, following[1])
  end
end
if is_gone then
  redis.call('HDEL', record, 'receiver')
  for _, other in pairs(cjson.decode(redis.call('HGET', record, 'deliveries') or '{}')) do
    if other.state == 'pending' then
      OUTBOX.drop(prefix, record, other.id, 'gone', 'its receiver wants no more events of this job')
    end
  end
end
OUTBOX.schedule(prefix, queue)
return 1
