-- One page of webhooks, those of the newest jobs first.
-- KEYS: ids of those on their way, or of those given up    ARGV: prefix of the webhooks, start id ('' for the first), page size
-- Returns {cursor or '', row, ...}; see OUTBOX.row. A short page with a cursor means there may be more.
-- include webhooks/outbox
local p, size = ARGV[1], tonumber(ARGV[3])
local upper = '+'
if ARGV[2] ~= '' then
  upper = '(' .. ARGV[2]
end
local ids = redis.call('ZRANGE', KEYS[1], upper, '-', 'BYLEX', 'REV', 'LIMIT', 0, size)
local rows = { #ids == size and ids[size] or '' }
for _, id in ipairs(ids) do
  local row = OUTBOX.row(p, id)
  if row then
    rows[#rows + 1] = row
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return rows
