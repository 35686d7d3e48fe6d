-- Included by outbox.lua: owners take turns, and so do the queues of each. A schedule is a sorted set of owners or queues
-- by the time in ms at which they are due.

function OUTBOX.queue(owner, origin)
  return owner == '' and origin or origin .. ' ' .. owner
end

function OUTBOX.origin(queue)
  return string.match(queue, '^%S+')
end

function OUTBOX.owner(queue)
  return string.match(queue, ' (.*)$') or ''
end

-- The time with microseconds: of two that are served in the same millisecond, the first is served first again.
function OUTBOX.precise_now()
  local clock = redis.call('TIME')
  return clock[1] * 1000 + clock[2] / 1000
end

-- When the first entry of a sorted set is due; nil if it is empty.
function OUTBOX.first_due(key)
  return tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
end

-- Schedule an entry for `due_at`, or remove it for nil. An entry that is due keeps its position, unless it was just served.
function OUTBOX.set_turn(schedule, entry, due_at, was_served)
  if not due_at then
    redis.call('ZREM', schedule, entry)
    return
  end
  local now = OUTBOX.precise_now()
  local scheduled_at = tonumber(redis.call('ZSCORE', schedule, entry))
  if due_at > now then
    redis.call('ZADD', schedule, due_at, entry)
  elseif was_served or not scheduled_at or scheduled_at > now then
    redis.call('ZADD', schedule, now, entry)
  end
end

-- Schedule a queue and its owner: not before `earliest`, if that is given.
function OUTBOX.schedule(prefix, queue, earliest, was_served)
  local owner = OUTBOX.owner(queue)
  local first_due = OUTBOX.first_due(prefix .. 'queue:' .. queue)
  local due_at = first_due and math.max(first_due, earliest or 0)
  OUTBOX.set_turn(prefix .. 'due:' .. owner, queue, due_at, was_served)
  OUTBOX.set_turn(prefix .. 'owners', owner, OUTBOX.first_due(prefix .. 'due:' .. owner), was_served)
end

function OUTBOX.end_attempt(prefix, queue, id)
  redis.call('ZREM', prefix .. 'flying:' .. queue, id)
  redis.call('ZREM', prefix .. 'flying:' .. OUTBOX.owner(queue), id)
end

-- How many webhooks of a queue or an owner are being sent; those whose lease has expired are not.
function OUTBOX.num_in_flight(prefix, queue_or_owner, now)
  redis.call('ZREMRANGEBYSCORE', prefix .. 'flying:' .. queue_or_owner, '-inf', now)
  return redis.call('ZCARD', prefix .. 'flying:' .. queue_or_owner)
end
