-- Remove all that is known of a job that has ended.
-- KEYS: record, events, index of all jobs    ARGV: id, prefixes of the indexes by state, backend and label, '1' to only look
-- Returns 1, or 0 when it has not ended, is pinned, or is gone.
local held = redis.call('HMGET', KEYS[1], 'state', 'backend', 'label', 'pinned')
local state = held[1]
if not state or state == 'queued' or state == 'running' or held[4] then
  return 0
end
if ARGV[5] ~= '' then
  return 1
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', ARGV[2] .. state, ARGV[1])
redis.call('ZREM', ARGV[3] .. held[2], ARGV[1])
if held[3] and held[3] ~= '' then
  redis.call('ZREM', ARGV[4] .. held[3], ARGV[1])
end
return 1
