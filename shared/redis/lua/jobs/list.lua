-- One page of jobs, newest first: of those that are on every one of some lists.
-- KEYS: the lists, those first that hold nothing of other owners
-- ARGV: how many lists that are, prefix of the records, where to begin ('' for the newest), page size,
--       most ids to look at, prefix of the places in line
-- Returns {cursor or '', doc, progress, number of jobs before it or -1, pinned or '', tasks with a
-- provider or '', what became of its webhooks or '', doc, ...}. The shortest list is walked and its ids are looked up
-- in the others: records are read of jobs that are returned, and of no others. The walk is bounded, so that filters which
-- have nothing in common cannot hold up the server: a short page with a cursor means there may be more.
local own, size, budget = tonumber(ARGV[1]), tonumber(ARGV[4]), tonumber(ARGV[5])
local walked, least = 1, nil
for i, list in ipairs(KEYS) do
  local length = redis.call('ZCARD', list)
  if length == 0 then
    return {''}
  elseif not least or length < least then
    walked, least = i, length
  end
end

-- Which of the ids are on all the other lists.
local function on_all(ids)
  local on = {}
  for i = 1, #ids do
    on[i] = true
  end
  for i, list in ipairs(KEYS) do
    if i ~= walked then
      for at, score in ipairs(redis.call('ZMSCORE', list, unpack(ids))) do
        on[at] = on[at] and score
      end
    end
  end
  return on
end

local rows, found, seen, last = {''}, 0, 0, nil
local function add(id)
  local held = redis.call('HMGET', ARGV[2] .. id, 'doc', 'progress', 'state', 'backend', 'pinned', 'providers',
    'deliveries')
  if not held[1] then
    redis.call('ZREM', KEYS[walked], id)
    return
  end
  local before = held[3] == 'queued' and redis.call('ZRANK', ARGV[6] .. held[4], id) or -1
  for _, cell in ipairs({held[1], held[2] or '', before, held[5] or '', held[6] or '', held[7] or ''}) do
    rows[#rows + 1] = cell
  end
  found = found + 1
end

local from = ARGV[3] == '' and '+' or '(' .. ARGV[3]
while seen < budget do
  -- Filters that have much in common need no more than a page.
  local most = seen == 0 and size or math.min(200, budget - seen)
  local ids = redis.call('ZRANGE', KEYS[walked], from, '-', 'BYLEX', 'REV', 'LIMIT', 0, most)
  if #ids == 0 then
    return rows
  end
  for at, on in ipairs(on_all(ids)) do
    last, seen = ids[at], seen + 1
    if on then
      add(last)
      if found == size then
        rows[1] = last
        return rows
      end
    end
  end
  from = '(' .. last
end
-- A job of somebody else is not named: only the millisecond in which it was made.
rows[1] = walked <= own and last or string.sub(last, 1, 13) .. '-7fff-bfff-ffffffffffff'
return rows
