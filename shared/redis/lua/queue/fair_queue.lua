-- What the scripts share that put jobs into the queue of a backend and take them out. `q` holds the names of its keys:
--   queue     ids of queued jobs in the order in which they will start: by rank of priority, then by start tag
--   shares    start tags: 'clock:<rank>' of the job that started last, '<rank>:<owner>' of the owner's next job
--   wake_ups  messages of the broker that wake a worker; they carry nothing, a worker that has one looks into the queue
-- Start tags are those of start-time fair queueing (Goyal, Vin, Cheng, 1996): owners take turns, an image each, however
-- many jobs one of them has waiting, and the order of the queue is known when a job joins it.
local QUEUE = { span = 1e12, most_wake_ups = 32 }

function QUEUE.push(q, id, rank, owner, images)
  local field = rank .. ':' .. owner
  local held = redis.call('HMGET', q.shares, 'clock:' .. rank, field)
  local tag = math.max(tonumber(held[1] or 0), tonumber(held[2] or 0))
  redis.call('HSET', q.shares, field, tag + images)
  redis.call('ZADD', q.queue, rank * QUEUE.span + tag, id)
end

-- A job whose worker was lost, or handed it back, goes where it was: to the head.
function QUEUE.push_back(q, record, id, rank)
  redis.call('ZADD', q.queue, redis.call('HGET', record, 'score') or rank * QUEUE.span, id)
end

function QUEUE.start(q, record, id)
  local score = redis.call('ZSCORE', q.queue, id)
  if not score then
    return
  end
  redis.call('ZREM', q.queue, id)
  redis.call('HSET', record, 'score', score)
  local rank = math.floor(score / QUEUE.span)
  local tag = score - rank * QUEUE.span
  if tag > tonumber(redis.call('HGET', q.shares, 'clock:' .. rank) or 0) then
    redis.call('HSET', q.shares, 'clock:' .. rank, tag)
  end
end

-- A job that never started gives its owner's share back. Without owners there is only one, and no share to speak of.
function QUEUE.withdraw(q, id, rank, owner, images)
  if redis.call('ZREM', q.queue, id) == 1 and owner ~= '' then
    redis.call('HINCRBY', q.shares, rank .. ':' .. owner, -images)
  end
end

-- As many wake-ups as there are queued jobs, up to a number that no installation has idle workers for. Each start and
-- each arrival comes by here, so one that was lost is replaced, and those of withdrawn jobs do not pile up.
function QUEUE.wake(q, message)
  local missing = math.min(redis.call('ZCARD', q.queue), QUEUE.most_wake_ups) - redis.call('LLEN', q.wake_ups)
  for _ = 1, missing do
    local number = redis.call('HINCRBY', q.shares, 'wake-ups', 1)
    redis.call('LPUSH', q.wake_ups, (string.gsub(message, '{ID}', 'wake-up-' .. number)))
  end
  if missing < 0 then
    redis.call('LTRIM', q.wake_ups, -missing, -1)
  end
  return math.max(missing, 0)
end

-- How many jobs are before one, -1 where it is not queued, and their expected durations together in ms. The sum is taken
-- over the first 200 and scaled up, so that reading stays cheap in a long queue.
function QUEUE.position(queue, record_prefix, id)
  local before = redis.call('ZRANK', queue, id) or -1
  local wait_ms = 0
  if before > 0 then
    local ids = redis.call('ZRANGE', queue, 0, math.min(before, 200) - 1)
    for _, other in ipairs(ids) do
      wait_ms = wait_ms + tonumber(redis.call('HGET', record_prefix .. other, 'expected') or 0)
    end
    wait_ms = math.floor(wait_ms * before / #ids)
  end
  return before, wait_ms
end
