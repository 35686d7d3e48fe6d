-- Included by scripts that create, send and settle webhooks. All keys share one prefix. Webhooks wait in queues, one per
-- owner and origin, named `<scheme://host:port> <owner>`, or by the origin alone for jobs without an owner:
--   owners             owners by when one of their queues is due; an owner that was served goes to the end
--   due:<owner>        the queues of an owner, in the same way
--   queue:<queue>      ids of its webhooks by when they are sent; of those being sent, by when their lease expires
--   flying:<queue>     ids of those being sent, by the same; for all queues of an owner: flying:<owner>
--   health:<queue>     consecutive refusals of its receiver (`failures`), and until when it is skipped (`until`)
--   down:<origin>      consecutive failed connections (`failures`), until when it is skipped (`until`), and until when one
--                      process tests it (`trial`)
--   event:<id>         the webhook itself; `receiver` is its queue
--   pending, dead      ids of those to be sent, and of those given up; of one owner: pending:<owner>, dead:<owner>
--   progress:<owner>   of the pending ones, those that report progress
--   news               channel on which senders hear that something is due
-- Times are in ms, by the server's clock; scripts that include this have the present one in `now`.
local OUTBOX = {}

-- How long a webhook waits for the previous one of the same job to be attempted: longer than any attempt takes.
OUTBOX.max_wait_for_previous = 20000
-- Progress is reported at most this often.
OUTBOX.progress_interval = 1000
-- Most pending webhooks of one owner. One takes 2 to 3 kB, and one owner must not fill the server.
OUTBOX.max_pending = 20000

-- include commands/now
-- include webhooks/rotation
-- Store the state of a webhook in the job's record, which holds the latest of each kind of event.
function OUTBOX.save_delivery(prefix, record, id, state, next_attempt_at)
  if redis.call('EXISTS', record) == 0 then
    return
  end
  local fields = redis.call('HMGET', prefix .. 'event:' .. id, 'event', 'attempts', 'status', 'error', 'tried')
  local event = fields[1]
  local deliveries = cjson.decode(redis.call('HGET', record, 'deliveries') or '{}')
  deliveries[event] = {
    id = id,
    event = event,
    state = state,
    attempts = tonumber(fields[2]),
    last_status = tonumber(fields[3] or ''),
    last_error = fields[4] ~= '' and fields[4] or nil,
    last_attempt_at = tonumber(fields[5] or ''),
    next_attempt_at = next_attempt_at,
  }
  redis.call('HSET', record, 'deliveries', cjson.encode(deliveries))
end

-- Add a webhook to one of the indexes `pending` and `dead`, and remove it from the other ('' for none).
function OUTBOX.set_status(prefix, id, added_to, removed_from)
  local owner = redis.call('HGET', prefix .. 'event:' .. id, 'owner') or ''
  for _, suffix in ipairs({ '', ':' .. owner }) do
    if added_to ~= '' then
      redis.call('ZADD', prefix .. added_to .. suffix, 0, id)
    end
    if removed_from ~= '' then
      redis.call('ZREM', prefix .. removed_from .. suffix, id)
    end
  end
end

function OUTBOX.delete(prefix, id)
  local fields = redis.call('HMGET', prefix .. 'event:' .. id, 'receiver', 'owner')
  local queue, owner = fields[1], fields[2] or ''
  OUTBOX.set_status(prefix, id, '', 'pending')
  redis.call('DEL', prefix .. 'event:' .. id)
  if queue then
    redis.call('ZREM', prefix .. 'queue:' .. queue, id)
  end
  redis.call('ZREM', prefix .. 'progress:' .. owner, id)
end

-- Delete a webhook that will not be sent, and record why.
function OUTBOX.drop(prefix, record, id, reason, error)
  redis.call('HSET', prefix .. 'event:' .. id, 'error', error)
  OUTBOX.save_delivery(prefix, record, id, 'dropped')
  OUTBOX.delete(prefix, id)
  redis.call('HINCRBY', string.gsub(prefix, 'webhooks:$', 'counts'), 'webhooks_dropped|' .. reason, 1)
end

-- Make room for one more: progress is dropped first, then the oldest.
function OUTBOX.make_room(prefix, owner)
  while redis.call('ZCARD', prefix .. 'pending:' .. owner) >= OUTBOX.max_pending do
    local id = redis.call('ZRANGE', prefix .. 'progress:' .. owner, 0, 0)[1]
      or redis.call('ZRANGE', prefix .. 'pending:' .. owner, 0, 0)[1]
    local job = redis.call('HGET', prefix .. 'event:' .. id, 'job')
    if job then
      OUTBOX.drop(prefix, string.gsub(prefix, 'webhooks:$', 'job:') .. job, id, 'limit',
        'dropped in favour of newer ones: ' .. OUTBOX.max_pending .. ' of its owner were pending')
    end
    redis.call('ZREM', prefix .. 'pending:' .. owner, id)
    redis.call('ZREM', prefix .. 'progress:' .. owner, id)
  end
end

-- The latest webhook of a job, if no attempt to send it has ended: {id, event, is_in_flight}.
function OUTBOX.unsent(prefix, record)
  local id = redis.call('HGET', record, 'told')
  if not id then
    return nil
  end
  local fields = redis.call('HMGET', prefix .. 'event:' .. id, 'event', 'attempts', 'tried')
  local event, attempts, tried_at = fields[1], fields[2], fields[3]
  if not event or tried_at then
    return nil
  end
  return { id = id, event = event, is_in_flight = attempts ~= '0' }
end

-- Add a webhook if the job's receiver wants the event.
function OUTBOX.add(prefix, record, job, event, id, doc, progress)
  local fields = redis.call('HMGET', record, 'receiver', 'wanted', 'providers', 'pinned', 'owner')
  local origin, wanted_events, providers, pinned, owner = fields[1], fields[2], fields[3], fields[4], fields[5] or ''
  if not origin or not string.find(wanted_events, event, 1, true) then
    return
  end
  local queue = OUTBOX.queue(owner, origin)
  local send_at = now
  local previous = OUTBOX.unsent(prefix, record)
  if previous and previous.event == 'progress' and not previous.is_in_flight then
    -- The new event is more recent.
    OUTBOX.drop(prefix, record, previous.id, 'overtaken', '')
  elseif previous then
    redis.call('HSET', prefix .. 'event:' .. previous.id, 'next', id)
    send_at = now + OUTBOX.max_wait_for_previous
  end
  OUTBOX.make_room(prefix, owner)
  redis.call('HSET', prefix .. 'event:' .. id, 'job', job, 'event', event, 'receiver', queue, 'at', now, 'attempts', 0,
    'doc', doc, 'progress', progress, 'providers', providers or '', 'pinned', pinned or '', 'owner', owner)
  redis.call('ZADD', prefix .. 'queue:' .. queue, send_at, id)
  OUTBOX.set_status(prefix, id, 'pending', '')
  if event == 'progress' then
    redis.call('ZADD', prefix .. 'progress:' .. owner, now, id)
  end
  redis.call('HSET', record, 'told', id)
  OUTBOX.save_delivery(prefix, record, id, 'pending', send_at)
  OUTBOX.schedule(prefix, queue)
  redis.call('PUBLISH', prefix .. 'news', queue)
end

-- Add a webhook for progress, at most one per interval; newer progress replaces progress that has not been sent.
function OUTBOX.add_progress(prefix, record, job, attempt, progress)
  local fields = redis.call('HMGET', record, 'wanted', 'doc', 'told_progress')
  local wanted_events, doc, last_at = fields[1], fields[2], tonumber(fields[3] or 0)
  if not wanted_events or not string.find(wanted_events, 'progress', 1, true) then
    return
  end
  local previous = OUTBOX.unsent(prefix, record)
  if previous then
    if previous.event == 'progress' and not previous.is_in_flight then
      redis.call('HSET', prefix .. 'event:' .. previous.id, 'progress', progress, 'at', now)
    end
    return
  end
  if now - last_at < OUTBOX.progress_interval then
    return
  end
  redis.call('HSET', record, 'told_progress', now)
  OUTBOX.add(prefix, record, job, 'progress', job .. '_progress_' .. attempt .. '_' .. now, doc, progress)
end

-- A webhook as lists show it: {id, event, occurred at, attempts, status, error, last attempt at, next attempt at, doc}; nil
-- if it is deleted.
function OUTBOX.row(prefix, id)
  local fields = redis.call('HMGET', prefix .. 'event:' .. id, 'event', 'at', 'attempts', 'status', 'error', 'tried',
    'doc', 'receiver')
  local event, occurred_at, attempts, status, error, tried_at, doc, queue = unpack(fields)
  if not event then
    return nil
  end
  local next_at = redis.call('ZSCORE', prefix .. 'queue:' .. queue, id)
  return { id, event, occurred_at, attempts, status or '', error or '', tried_at or '', next_at or '', doc }
end
