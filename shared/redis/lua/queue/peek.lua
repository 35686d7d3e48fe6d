-- Read the head of a queue.
-- KEYS: queue
-- ARGV: prefix of records, most jobs to return
-- Returns a flat list: doc, provider tasks or '', expected duration in ms ('0' if unknown), ...
local queue = KEYS[1]
local record_prefix, limit = ARGV[1], ARGV[2]

local rows = {}
for _, id in ipairs(redis.call('ZRANGE', queue, 0, limit - 1)) do
  local fields = redis.call('HMGET', record_prefix .. id, 'state', 'doc', 'providers', 'expected')
  if fields[1] == 'queued' then
    rows[#rows + 1] = fields[2]
    rows[#rows + 1] = fields[3] or ''
    rows[#rows + 1] = fields[4] or '0'
  else
    -- A record that the server lost must not block the queue.
    redis.call('ZREM', queue, id)
  end
end
return rows
