-- The head of a queue.
-- KEYS: queue    ARGV: prefix of the records, most to return
-- Returns a flat list: doc, tasks with a provider or '', expected duration in ms ('0' where that is not known), ...
local rows = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  local held = redis.call('HMGET', ARGV[1] .. id, 'state', 'doc', 'providers', 'expected')
  if held[1] == 'queued' then
    rows[#rows + 1] = held[2]
    rows[#rows + 1] = held[3] or ''
    rows[#rows + 1] = held[4] or '0'
  else
    -- What the server lost of a record must not stand in the way of others.
    redis.call('ZREM', KEYS[1], id)
  end
end
return rows
