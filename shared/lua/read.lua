-- KEYS: record    ARGV: id, prefix of the places in line
-- Returns {doc, progress or '', number of jobs before it or -1}, or nothing.
local held = redis.call('HMGET', KEYS[1], 'doc', 'progress', 'backend')
if not held[1] then
  return nil
end
local before = redis.call('ZRANK', ARGV[2] .. held[3], ARGV[1])
return {held[1], held[2] or '', before or -1}
