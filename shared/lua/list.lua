-- One page of jobs, newest first.
-- KEYS: the index to walk    ARGV: prefix of the records, start id ('' for the newest), page size,
--                                  wanted state, backend and label ('' for any), most records to look at,
--                                  prefix of the places in line
-- Returns {cursor or '', doc, progress, number of jobs before it or -1, pinned or '', tasks with a
-- provider or '', what became of its webhooks or '', doc, ...}. The walk is bounded, so
-- that a filter which matches nothing cannot hold up the server: a short page with a cursor means there may be more.
local size, budget = tonumber(ARGV[3]), tonumber(ARGV[7])
local upper = '+'
if ARGV[2] ~= '' then
  upper = '(' .. ARGV[2]
end
local rows, found, seen, last = {''}, 0, 0, ''
local function wanted(value, want)
  return want == '' or value == want
end
while found < size and seen < budget do
  local ids = redis.call('ZRANGE', KEYS[1], upper, '-', 'BYLEX', 'REV', 'LIMIT', 0, size)
  if #ids == 0 then
    return rows
  end
  for _, id in ipairs(ids) do
    last, seen = id, seen + 1
    local held = redis.call('HMGET', ARGV[1] .. id, 'doc', 'progress', 'state', 'backend', 'label', 'pinned',
      'providers', 'deliveries')
    if not held[1] then
      redis.call('ZREM', KEYS[1], id)
    elseif wanted(held[3], ARGV[4]) and wanted(held[4], ARGV[5]) and wanted(held[5], ARGV[6]) then
      rows[#rows + 1] = held[1]
      rows[#rows + 1] = held[2] or ''
      rows[#rows + 1] = redis.call('ZRANK', ARGV[8] .. held[4], id) or -1
      rows[#rows + 1] = held[6] or ''
      rows[#rows + 1] = held[7] or ''
      rows[#rows + 1] = held[8] or ''
      found = found + 1
      if found == size then
        break
      end
    end
  end
  upper = '(' .. last
end
rows[1] = last
return rows
