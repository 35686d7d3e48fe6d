-- Whose turn it is: owners take turns, and so do the queues of each. Part of outbox.lua.

function OUTBOX.queue(owner, origin)
  return owner == '' and origin or origin .. ' ' .. owner
end

function OUTBOX.origin(queue)
  return string.match(queue, '^%S+')
end

function OUTBOX.owner(queue)
  return string.match(queue, ' (.*)$') or ''
end

-- The clock to the microsecond: of those that are served in one millisecond, the first one is served again first.
function OUTBOX.moment()
  local now = redis.call('TIME')
  return now[1] * 1000 + now[2] / 1000
end

-- When the first of a line is due; nil where there is none.
function OUTBOX.first(line)
  return tonumber(redis.call('ZRANGE', line, 0, 0, 'WITHSCORES')[2])
end

-- Put somebody in a line for `at`, nil for never. Whose turn has come stays where it is, unless it was just served.
function OUTBOX.turn(line, who, at, served)
  if not at then
    redis.call('ZREM', line, who)
    return
  end
  local now = OUTBOX.moment()
  local held = tonumber(redis.call('ZSCORE', line, who))
  if at > now then
    redis.call('ZADD', line, at, who)
  elseif served or not held or held > now then
    redis.call('ZADD', line, now, who)
  end
end

-- Say when there is something to do for a queue: not before `earliest`, where that is given.
function OUTBOX.schedule(p, queue, earliest, served)
  local owner = OUTBOX.owner(queue)
  local first = OUTBOX.first(p .. 'queue:' .. queue)
  OUTBOX.turn(p .. 'due:' .. owner, queue, first and math.max(first, earliest or 0), served)
  OUTBOX.turn(p .. 'owners', owner, OUTBOX.first(p .. 'due:' .. owner), served)
end

function OUTBOX.landed(p, queue, id)
  redis.call('ZREM', p .. 'flying:' .. queue, id)
  redis.call('ZREM', p .. 'flying:' .. OUTBOX.owner(queue), id)
end

-- How many are being sent; those whose lease has lapsed are not.
function OUTBOX.flying(p, whose, now)
  redis.call('ZREMRANGEBYSCORE', p .. 'flying:' .. whose, '-inf', now)
  return redis.call('ZCARD', p .. 'flying:' .. whose)
end
