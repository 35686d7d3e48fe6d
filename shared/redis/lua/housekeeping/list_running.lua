-- The jobs that one worker has on record as running.
-- KEYS: index of running jobs    ARGV: prefix of the records, worker
-- Returns their docs.
local docs = {}
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local held = redis.call('HMGET', ARGV[1] .. id, 'state', 'worker', 'doc')
  if held[1] == 'running' and held[2] == ARGV[2] then
    docs[#docs + 1] = held[3]
  end
end
return docs
