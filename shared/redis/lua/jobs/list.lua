-- Read one page of jobs that are in every one of some indexes, newest first.
-- KEYS: the indexes; those that list jobs of the caller only come first
-- ARGV: number of those, prefix of records, id to begin after ('' for the newest), page size, most ids to examine,
--       prefix of queues
-- Returns {cursor or '', doc, progress, position in its queue or -1, pinned or '', provider tasks or '', webhook
-- deliveries or '', doc, ...}. The shortest index is scanned and its ids are looked up in the others: only records of
-- returned jobs are read. The scan is bounded, so that filters with nothing in common cannot block the server: a short
-- page with a cursor means that there may be more.
local num_private, record_prefix, after = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local page_size, budget, queue_prefix = tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]

local scanned, shortest = 1, nil
for i, index in ipairs(KEYS) do
  local length = redis.call('ZCARD', index)
  if length == 0 then
    return { '' }
  elseif not shortest or length < shortest then
    scanned, shortest = i, length
  end
end

-- Which of the ids are in all the other indexes.
local function matches(ids)
  local is_match = {}
  for i = 1, #ids do
    is_match[i] = true
  end
  for i, index in ipairs(KEYS) do
    if i ~= scanned then
      for position, score in ipairs(redis.call('ZMSCORE', index, unpack(ids))) do
        is_match[position] = is_match[position] and score
      end
    end
  end
  return is_match
end

local rows, num_found, num_examined, last_id = { '' }, 0, 0, nil
local function add(id)
  local fields = redis.call('HMGET', record_prefix .. id, 'doc', 'progress', 'state', 'backend', 'pinned', 'providers',
    'deliveries')
  local doc, progress, state, backend, pinned, providers, deliveries = unpack(fields)
  if not doc then
    redis.call('ZREM', KEYS[scanned], id)
    return
  end
  local position = state == 'queued' and redis.call('ZRANK', queue_prefix .. backend, id) or -1
  for _, cell in ipairs({ doc, progress or '', position, pinned or '', providers or '', deliveries or '' }) do
    rows[#rows + 1] = cell
  end
  num_found = num_found + 1
end

local from = after == '' and '+' or '(' .. after
while num_examined < budget do
  -- Filters that have much in common need no more than a page.
  local limit = num_examined == 0 and page_size or math.min(200, budget - num_examined)
  local ids = redis.call('ZRANGE', KEYS[scanned], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, limit)
  if #ids == 0 then
    return rows
  end
  for i, is_match in ipairs(matches(ids)) do
    last_id, num_examined = ids[i], num_examined + 1
    if is_match then
      add(last_id)
      if num_found == page_size then
        rows[1] = last_id
        return rows
      end
    end
  end
  from = '(' .. last_id
end
-- The cursor must not reveal the id of another owner's job: only the millisecond in which it was created.
rows[1] = scanned <= num_private and last_id or string.sub(last_id, 1, 13) .. '-7fff-bfff-ffffffffffff'
return rows
