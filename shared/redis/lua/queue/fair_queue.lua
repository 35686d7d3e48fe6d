-- Included by scripts that queue jobs of a backend and take them out. `q` holds the names of its keys:
--   queue     ids of queued jobs in the order in which they will start: by rank of priority, then by start tag
--   shares    start tags: 'clock:<rank>' of a job whose owner is new, '<rank>:<owner>' of the owner's next job;
--             'wake-ups' numbers the wake-ups
--   wake_ups  messages of the broker that wake a worker; they carry no job, the worker looks into the queue
-- Start tags are those of start-time fair queueing (Goyal, Vin, Cheng, 1996): owners take turns, an image each, however
-- many jobs one of them has queued, and the position of a job is known when it is queued.
local QUEUE = { rank_span = 1e12, max_wake_ups = 32, max_read_ahead = 32, max_lag = 200 }

-- Queued jobs that were passed over for jobs of another model, by the time in ms of the first time (see next.lua).
function QUEUE.passed(queue)
  return queue .. ':passed'
end

function QUEUE.push(q, id, rank, owner, num_images)
  local field = rank .. ':' .. owner
  local tags = redis.call('HMGET', q.shares, 'clock:' .. rank, field)
  local start_tag = math.max(tonumber(tags[1] or 0), tonumber(tags[2] or 0))
  redis.call('HSET', q.shares, field, start_tag + num_images)
  redis.call('ZADD', q.queue, rank * QUEUE.rank_span + start_tag, id)
end

-- A requeued job returns to its former position, at the head.
function QUEUE.push_back(q, record, id, rank)
  redis.call('ZADD', q.queue, redis.call('HGET', record, 'score') or rank * QUEUE.rank_span, id)
end

function QUEUE.start(q, record, id)
  local score = redis.call('ZSCORE', q.queue, id)
  if not score then
    return
  end
  redis.call('ZREM', q.queue, id)
  redis.call('ZREM', QUEUE.passed(q.queue), id)
  redis.call('HSET', record, 'score', score)
  local rank = math.floor(score / QUEUE.rank_span)
  local first, last = rank * QUEUE.rank_span, (rank + 1) * QUEUE.rank_span
  local clock = score - first
  -- Workers start jobs of the model that they have out of turn. The clock waits for those that are passed over, so that a
  -- new owner does not come after all of them; but not for ever, because nobody may have their model.
  local head = redis.call('ZRANGE', q.queue, first, '(' .. last, 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')[2]
  if head then
    clock = math.min(clock, math.max(head - first, clock - QUEUE.max_lag))
  end
  if clock > tonumber(redis.call('HGET', q.shares, 'clock:' .. rank) or 0) then
    redis.call('HSET', q.shares, 'clock:' .. rank, clock)
  end
end

-- A job that never started returns its owner's share, and the owner's jobs behind it move up: otherwise a later job would
-- share the turn of one of them. `unfinished` lists the owner's jobs. Jobs without owners all share one.
function QUEUE.withdraw(q, id, rank, owner, num_images, unfinished)
  local score = tonumber(redis.call('ZSCORE', q.queue, id) or nil)
  redis.call('ZREM', q.queue, id)
  redis.call('ZREM', QUEUE.passed(q.queue), id)
  if not score or owner == '' then
    return
  end
  redis.call('HINCRBY', q.shares, rank .. ':' .. owner, -num_images)
  local queued = redis.call('ZINTER', 2, q.queue, unfinished, 'WEIGHTS', 1, 0, 'WITHSCORES')
  for i = 1, #queued, 2 do
    local other_id, other_score = queued[i], tonumber(queued[i + 1])
    if other_score > score and other_score < (rank + 1) * QUEUE.rank_span then
      redis.call('ZADD', q.queue, math.max(score, other_score - num_images), other_id)
    end
  end
end

-- Keep as many wake-ups as there are queued jobs, up to a number of idle workers that no installation has. Every start and
-- every new job calls this, which replaces lost wake-ups and removes those of withdrawn jobs.
function QUEUE.wake(q, message)
  local missing = math.min(redis.call('ZCARD', q.queue), QUEUE.max_wake_ups) - redis.call('LLEN', q.wake_ups)
  for _ = 1, missing do
    local number = redis.call('HINCRBY', q.shares, 'wake-ups', 1)
    redis.call('LPUSH', q.wake_ups, (string.gsub(message, '{ID}', 'wake-up-' .. number)))
  end
  if missing < 0 then
    redis.call('LTRIM', q.wake_ups, -missing, -1)
  end
  return math.max(missing, 0)
end

-- How many jobs are ahead of one, -1 if it is not queued, their expected duration in ms, and their models ('' for the
-- default one), each once. Only the first ones are read and the sum is scaled up: in a long queue, reading two hundred
-- took most of the time of accepting a job, and owners take turns, so that the first ones resemble the others.
function QUEUE.position(queue, record_prefix, id)
  local position = redis.call('ZRANK', queue, id) or -1
  local work_ahead_ms, models, is_known = 0, {}, {}
  if position > 0 then
    local ids = redis.call('ZRANGE', queue, 0, math.min(position, QUEUE.max_read_ahead) - 1)
    for _, other_id in ipairs(ids) do
      local fields = redis.call('HMGET', record_prefix .. other_id, 'expected', 'model')
      local model = fields[2] or ''
      work_ahead_ms = work_ahead_ms + tonumber(fields[1] or 0)
      if not is_known[model] then
        is_known[model] = true
        models[#models + 1] = model
      end
    end
    work_ahead_ms = math.floor(work_ahead_ms * position / #ids)
  end
  return position, work_ahead_ms, models
end
