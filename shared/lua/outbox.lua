-- What the scripts share that make, send and settle webhooks. All of it lies below one prefix:
--   due                receivers (scheme://host:port) by when there is something to be sent to them
--   queue:<receiver>   ids of its webhooks by when they are to be sent; of those being sent, by when their lease lapses
--   flying:<receiver>  ids of those being sent, by the same
--   health:<receiver>  how often in a row it could not be reached, and until when it is left alone
--   event:<id>         the webhook itself
--   pending, dead      ids of those on their way, and of those given up; of one owner alone: pending:<owner>, dead:<owner>
--   news               the channel on which those who send hear that something is due
-- Times are in ms, by the server's clock.
local OUTBOX = {}

-- A webhook waits so long for the one before it, of the same job, to be tried: longer than any attempt takes.
OUTBOX.hold = 20000
-- Progress is told at most this often.
OUTBOX.pause = 1000

function OUTBOX.clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- Say when there is something to do for a receiver. Never a time that has passed, so that receivers take turns.
function OUTBOX.schedule(p, receiver, most)
  local first = redis.call('ZRANGE', p .. 'queue:' .. receiver, 0, 0, 'WITHSCORES')[2]
  if not first then
    redis.call('ZREM', p .. 'due', receiver)
    return
  end
  local closed = redis.call('HGET', p .. 'health:' .. receiver, 'until') or 0
  local at = math.max(tonumber(first), tonumber(closed), OUTBOX.clock())
  if most and redis.call('ZCARD', p .. 'flying:' .. receiver) >= most then
    local landing = redis.call('ZRANGE', p .. 'flying:' .. receiver, 0, 0, 'WITHSCORES')[2]
    at = math.max(at, tonumber(landing or 0))
  end
  redis.call('ZADD', p .. 'due', at, receiver)
end

-- Keep with the job what became of its latest webhook of each kind.
function OUTBOX.remember(p, record, id, state, next_at)
  if redis.call('EXISTS', record) == 0 then
    return
  end
  local held = redis.call('HMGET', p .. 'event:' .. id, 'event', 'attempts', 'status', 'error', 'tried')
  local all = cjson.decode(redis.call('HGET', record, 'deliveries') or '{}')
  all[held[1]] = {
    id = id,
    event = held[1],
    state = state,
    attempts = tonumber(held[2]),
    last_status = tonumber(held[3] or ''),
    last_error = held[4] ~= '' and held[4] or nil,
    last_attempt_at = tonumber(held[5] or ''),
    next_attempt_at = next_at,
  }
  redis.call('HSET', record, 'deliveries', cjson.encode(all))
end

-- Put a webhook on one of the lists, and take it off another ('' for none).
function OUTBOX.list(p, id, on, off)
  local owner = redis.call('HGET', p .. 'event:' .. id, 'owner') or ''
  for _, suffix in ipairs(owner == '' and { '' } or { '', ':' .. owner }) do
    if on ~= '' then
      redis.call('ZADD', p .. on .. suffix, 0, id)
    end
    if off ~= '' then
      redis.call('ZREM', p .. off .. suffix, id)
    end
  end
end

function OUTBOX.discard(p, receiver, id)
  OUTBOX.list(p, id, '', 'pending')
  redis.call('DEL', p .. 'event:' .. id)
  redis.call('ZREM', p .. 'queue:' .. receiver, id)
  redis.call('ZREM', p .. 'flying:' .. receiver, id)
end

-- The webhook of a job that was told of last, if nobody has tried to send it yet: {id, event, attempts}.
function OUTBOX.untried(p, record)
  local id = redis.call('HGET', record, 'told')
  if not id then
    return nil
  end
  local held = redis.call('HMGET', p .. 'event:' .. id, 'event', 'attempts', 'tried')
  if not held[1] or held[3] then
    return nil
  end
  return { id = id, event = held[1], begun = held[2] ~= '0' }
end

-- Put a webhook on its way, where the job's caller asked for it.
function OUTBOX.tell(p, record, job, event, id, doc, progress)
  local held = redis.call('HMGET', record, 'receiver', 'wanted', 'providers', 'pinned', 'owner')
  local receiver = held[1]
  if not receiver or not string.find(held[2], event, 1, true) then
    return
  end
  local now = OUTBOX.clock()
  local at = now
  local before = OUTBOX.untried(p, record)
  if before and before.event == 'progress' and not before.begun then
    -- What is newer says more.
    OUTBOX.remember(p, record, before.id, 'dropped')
    OUTBOX.discard(p, receiver, before.id)
  elseif before then
    redis.call('HSET', p .. 'event:' .. before.id, 'next', id)
    at = now + OUTBOX.hold
  end
  redis.call('HSET', p .. 'event:' .. id, 'job', job, 'event', event, 'receiver', receiver, 'at', now, 'attempts', 0,
    'doc', doc, 'progress', progress, 'providers', held[3] or '', 'pinned', held[4] or '',
    'owner', held[5] or '')
  redis.call('ZADD', p .. 'queue:' .. receiver, at, id)
  OUTBOX.list(p, id, 'pending', '')
  redis.call('HSET', record, 'told', id)
  OUTBOX.remember(p, record, id, 'pending', at)
  local turn = redis.call('ZSCORE', p .. 'due', receiver)
  -- One that has its turn already keeps it, however much comes after.
  if not turn or tonumber(turn) > at then
    OUTBOX.schedule(p, receiver)
  end
  redis.call('PUBLISH', p .. 'news', receiver)
end

-- Progress is told now and then; as long as the last word has not gone out, a newer one takes its place.
function OUTBOX.tell_progress(p, record, job, attempt, progress)
  local held = redis.call('HMGET', record, 'wanted', 'doc', 'told_progress')
  if not held[1] or not string.find(held[1], 'progress', 1, true) then
    return
  end
  local now = OUTBOX.clock()
  local before = OUTBOX.untried(p, record)
  if before then
    if before.event == 'progress' and not before.begun then
      redis.call('HSET', p .. 'event:' .. before.id, 'progress', progress, 'at', now)
    end
    return
  end
  if now - tonumber(held[3] or 0) < OUTBOX.pause then
    return
  end
  redis.call('HSET', record, 'told_progress', now)
  OUTBOX.tell(p, record, job, 'progress', job .. '_progress_' .. attempt .. '_' .. now, held[2], progress)
end

-- A webhook as lists show it: {id, event, made at, attempts, status, error, tried at, next at, doc}; nil when it is gone.
function OUTBOX.row(p, id)
  local held = redis.call('HMGET', p .. 'event:' .. id, 'event', 'at', 'attempts', 'status', 'error', 'tried', 'doc',
    'receiver')
  if not held[1] then
    return nil
  end
  local next_at = redis.call('ZSCORE', p .. 'queue:' .. held[8], id)
  return { id, held[1], held[2], held[3], held[4] or '', held[5] or '', held[6] or '', next_at or '', held[7] }
end
