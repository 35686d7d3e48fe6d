-- What the scripts share that make, send and settle webhooks. All of it lies below one prefix. Webhooks wait in queues,
-- one for each owner and origin, named `<scheme://host:port> <owner>`, or by the origin alone for jobs without an owner:
--   owners             owners by when there is something to be sent for them; one that was served goes to the end
--   due:<owner>        the queues of an owner, in the same way
--   queue:<queue>      ids of its webhooks by when they are to be sent; of those being sent, by when their lease lapses
--   flying:<queue>     ids of those being sent, by the same; of all queues of an owner: flying:<owner>
--   health:<queue>     how often in a row its receiver turned it away, and until when it is left alone
--   down:<origin>      how often in a row nobody could connect, until when nobody tries, until when somebody does
--   event:<id>         the webhook itself; `receiver` is its queue
--   pending, dead      ids of those on their way, and of those given up; of one owner alone: pending:<owner>, dead:<owner>
--   progress:<owner>   of those on their way, the ones that tell of progress
--   news               the channel on which those who send hear that something is due
-- Times are in ms, by the server's clock.
local OUTBOX = {}

-- A webhook waits so long for the one before it, of the same job, to be tried: longer than any attempt takes.
OUTBOX.hold = 20000
-- Progress is told at most this often.
OUTBOX.pause = 1000
-- So many webhooks of one owner may be on their way. One takes 2 to 3 kB, and one owner must not fill the server.
OUTBOX.most = 20000

function OUTBOX.clock()
  local now = redis.call('TIME')
  return now[1] * 1000 + math.floor(now[2] / 1000)
end

-- include webhooks/rotation
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
  for _, suffix in ipairs({ '', ':' .. owner }) do
    if on ~= '' then
      redis.call('ZADD', p .. on .. suffix, 0, id)
    end
    if off ~= '' then
      redis.call('ZREM', p .. off .. suffix, id)
    end
  end
end

function OUTBOX.discard(p, id)
  local held = redis.call('HMGET', p .. 'event:' .. id, 'receiver', 'owner')
  OUTBOX.list(p, id, '', 'pending')
  redis.call('DEL', p .. 'event:' .. id)
  if held[1] then
    redis.call('ZREM', p .. 'queue:' .. held[1], id)
    OUTBOX.landed(p, held[1], id)
  end
  redis.call('ZREM', p .. 'progress:' .. (held[2] or ''), id)
end

-- Discard a webhook that nobody is going to send, and say why.
function OUTBOX.drop(p, record, id, reason, error)
  redis.call('HSET', p .. 'event:' .. id, 'error', error)
  OUTBOX.remember(p, record, id, 'dropped')
  OUTBOX.discard(p, id)
  redis.call('HINCRBY', string.gsub(p, 'webhooks:$', 'counts'), 'webhooks_dropped|' .. reason, 1)
end

-- Make room for one more: progress goes first, then what is oldest.
function OUTBOX.make_room(p, owner)
  while redis.call('ZCARD', p .. 'pending:' .. owner) >= OUTBOX.most do
    local id = redis.call('ZRANGE', p .. 'progress:' .. owner, 0, 0)[1]
      or redis.call('ZRANGE', p .. 'pending:' .. owner, 0, 0)[1]
    local job = redis.call('HGET', p .. 'event:' .. id, 'job')
    if job then
      OUTBOX.drop(p, string.gsub(p, 'webhooks:$', 'job:') .. job, id, 'limit',
        'gave way to newer ones: ' .. OUTBOX.most .. ' of its owner were waiting')
    end
    redis.call('ZREM', p .. 'pending:' .. owner, id)
    redis.call('ZREM', p .. 'progress:' .. owner, id)
  end
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
  if not held[1] or not string.find(held[2], event, 1, true) then
    return
  end
  local owner = held[5] or ''
  local queue = OUTBOX.queue(owner, held[1])
  local now = OUTBOX.clock()
  local at = now
  local before = OUTBOX.untried(p, record)
  if before and before.event == 'progress' and not before.begun then
    -- What is newer says more.
    OUTBOX.drop(p, record, before.id, 'overtaken', '')
  elseif before then
    redis.call('HSET', p .. 'event:' .. before.id, 'next', id)
    at = now + OUTBOX.hold
  end
  OUTBOX.make_room(p, owner)
  redis.call('HSET', p .. 'event:' .. id, 'job', job, 'event', event, 'receiver', queue, 'at', now, 'attempts', 0,
    'doc', doc, 'progress', progress, 'providers', held[3] or '', 'pinned', held[4] or '', 'owner', owner)
  redis.call('ZADD', p .. 'queue:' .. queue, at, id)
  OUTBOX.list(p, id, 'pending', '')
  if event == 'progress' then
    redis.call('ZADD', p .. 'progress:' .. owner, now, id)
  end
  redis.call('HSET', record, 'told', id)
  OUTBOX.remember(p, record, id, 'pending', at)
  OUTBOX.schedule(p, queue)
  redis.call('PUBLISH', p .. 'news', queue)
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
