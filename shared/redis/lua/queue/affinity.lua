-- Included by next.lua: which queued job suits a worker, by the models in its memory.
-- include queue/fair_queue
local AFFINITY = { window_size = 200, max_read = 2000 }

-- The head of the queue, of which only as much is read as is needed. Entries: {id, rank, model, expected, position}.
-- `is_tried` holds ids of jobs and names of models to leave out.
function AFFINITY.window(queue, record_prefix, default_model, is_tried)
  local num_ids = next(is_tried) and AFFINITY.max_read or AFFINITY.window_size
  local ids = redis.call('ZRANGE', queue, 0, num_ids - 1, 'WITHSCORES')
  local entries, next_id = {}, 1
  local window = {}
  function window.get(position)
    while #entries < math.min(position, AFFINITY.window_size) and ids[next_id] do
      local id, score = ids[next_id], tonumber(ids[next_id + 1])
      next_id = next_id + 2
      local fields = redis.call('HMGET', record_prefix .. id, 'state', 'model', 'expected')
      if fields[1] ~= 'queued' then
        -- A record that the server lost must not block the queue.
        redis.call('ZREM', queue, id)
        redis.call('ZREM', QUEUE.passed(queue), id)
      end
      local model = (fields[2] and fields[2] ~= '') and fields[2] or default_model
      if fields[1] == 'queued' and not is_tried[id] and not is_tried[model] then
        entries[#entries + 1] = {
          id = id,
          rank = math.floor(score / QUEUE.rank_span),
          model = model,
          expected = tonumber(fields[3] or 0),
          position = #entries + 1,
        }
      end
    end
    return entries[position]
  end
  function window.find(is_wanted)
    local position = 1
    local entry = window.get(position)
    while entry do
      if is_wanted(entry) then
        return entry
      end
      position = position + 1
      entry = window.get(position)
    end
  end
  return window
end

-- The first job of the model of the first job that was passed over at `latest` or before, unless others have priority.
-- Jobs that this worker cannot start may have waited longest, however many: only those of the window count.
function AFFINITY.due(window, queue, latest)
  local passed = QUEUE.passed(queue)
  if redis.call('ZCOUNT', passed, '-inf', latest) == 0 then
    return
  end
  local rank = window.get(1).rank
  local due = window.find(function(entry)
    return entry.rank ~= rank or tonumber(redis.call('ZSCORE', passed, entry.id) or math.huge) <= latest
  end)
  if due and due.rank == rank then
    return window.find(function(entry) return entry.model == due.model end)
  end
end

-- Models that other workers have in memory (number of workers by model), and those that they are loading.
function AFFINITY.others(residency, backend, worker, earliest)
  local others = { holders = {}, is_loading = {} }
  local flat = redis.call('HGETALL', residency)
  for i = 1, #flat, 2 do
    local entry = cjson.decode(flat[i + 1])
    if entry.at < earliest then
      redis.call('HDEL', residency, flat[i])
    elseif flat[i] ~= worker and entry.backend == backend then
      for _, model in ipairs(entry.loaded) do
        others.holders[model] = (others.holders[model] or 0) + 1
      end
      if entry.loading and entry.loading ~= '' then
        others.is_loading[entry.loading] = true
      end
    end
  end
  return others
end

-- The best job of the highest priority for which this worker can do something useful.
function AFFINITY.choose(window, loaded, others, load_stats)
  local function in_memory(rank)
    return window.find(function(entry) return entry.rank == rank and loaded[entry.model] end)
  end
  local function of_nobody(rank)
    return window.find(function(entry)
      return entry.rank == rank and not others.holders[entry.model] and not others.is_loading[entry.model]
    end)
  end
  -- Whether loading the model once more is done before the others get to its jobs.
  local function worth_a_load(rank)
    local work_ms, load_ms = {}, {}
    window.find(function(entry)
      local model = entry.model
      load_ms[model] = load_ms[model] or tonumber(redis.call('HGET', load_stats, 'ms ' .. model) or 0)
      -- Of a job whose duration is unknown, assume half of that.
      local expected = entry.expected > 0 and entry.expected or load_ms[model] / 2
      work_ms[model] = (work_ms[model] or 0) + expected
    end)
    return window.find(function(entry)
      local workers = (others.holders[entry.model] or 0) + (others.is_loading[entry.model] and 1 or 0)
      return entry.rank == rank and work_ms[entry.model] >= load_ms[entry.model] * workers
    end)
  end
  for rank = window.get(1).rank, 2 do
    local entry = in_memory(rank) or of_nobody(rank) or worth_a_load(rank)
    if entry then
      return entry
    end
  end
end

-- Note the time for all jobs that are ahead of the chosen one, or all if they are left to other workers.
function AFFINITY.note_passed(window, queue, chosen, now)
  if chosen and chosen.position == 1 then
    return
  end
  local args = {}
  window.find(function(entry)
    if chosen and entry.position >= chosen.position then
      return true
    end
    args[#args + 1] = now
    args[#args + 1] = entry.id
  end)
  redis.call('ZADD', QUEUE.passed(queue), 'NX', unpack(args))
end

-- So that no other worker loads the same model for the same job; '' for none. The worker's next heartbeat replaces this.
function AFFINITY.note_load(residency, backend, worker, model, now)
  local known = redis.call('HGET', residency, worker)
  local entry = known and cjson.decode(known) or { loaded = {}, loading = '' }
  if entry.loading == model then
    return
  end
  entry.at, entry.backend, entry.loading = now, backend, model
  redis.call('HSET', residency, worker, cjson.encode(entry))
end
