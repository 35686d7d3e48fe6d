-- Read one page of webhooks, those of the newest jobs first.
-- KEYS: ids of pending or dead webhooks
-- ARGV: prefix of webhook keys, id to begin after ('' for the newest), page size
-- Returns {cursor or '', row, ...} (see OUTBOX.row). A short page with a cursor means that there may be more.
-- include webhooks/outbox
local index = KEYS[1]
local prefix, after, page_size = ARGV[1], ARGV[2], tonumber(ARGV[3])

local from = after == '' and '+' or '(' .. after
local ids = redis.call('ZRANGE', index, from, '-', 'BYLEX', 'REV', 'LIMIT', 0, page_size)
local rows = { #ids == page_size and ids[page_size] or '' }
for _, id in ipairs(ids) do
  local row = OUTBOX.row(prefix, id)
  if row then
    rows[#rows + 1] = row
  else
    redis.call('ZREM', index, id)
  end
end
return rows
