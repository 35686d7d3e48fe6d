-- Remove all that is known of a job that has ended.
-- KEYS: record, events, index of all jobs
-- ARGV: id, prefixes of the indexes by state, backend, label and owner, '1' to only look
-- Returns 1, or 0 when it has not ended, is pinned, or is gone.
local held = redis.call('HMGET', KEYS[1], 'state', 'backend', 'label', 'pinned', 'owner')
local state = held[1]
if not state or state == 'queued' or state == 'running' or held[4] then
  return 0
end
if ARGV[6] ~= '' then
  return 1
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', ARGV[2] .. state, ARGV[1])
redis.call('ZREM', ARGV[3] .. held[2], ARGV[1])
local label, owner = held[3] or '', held[5]
if label ~= '' then
  redis.call('ZREM', ARGV[4] .. label, ARGV[1])
end
if owner then
  redis.call('ZREM', ARGV[5] .. owner, ARGV[1])
  redis.call('ZREM', ARGV[5] .. owner .. ':label:' .. label, ARGV[1])
end
return 1
