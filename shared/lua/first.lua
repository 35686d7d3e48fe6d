-- The first jobs in line that nobody has started yet.
-- KEYS: place in line    ARGV: prefix of the records, most to look at
-- Returns their docs.
local docs = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, ARGV[2] - 1)) do
  local held = redis.call('HMGET', ARGV[1] .. id, 'state', 'attempt', 'doc')
  if held[1] == 'queued' and held[2] == '0' then
    docs[#docs + 1] = held[3]
  end
end
return docs
