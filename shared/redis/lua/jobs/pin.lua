-- Exempt a job and its images from retention, or end that.
-- KEYS: record, index of pinned jobs
-- ARGV: id, '1' to pin, '' to unpin
-- Returns 1, or 0 for an unknown job.
local record, pinned_index = KEYS[1], KEYS[2]
local id, pinned = ARGV[1], ARGV[2]

if redis.call('EXISTS', record) == 0 then
  return 0
end
if pinned == '' then
  redis.call('HDEL', record, 'pinned')
  redis.call('ZREM', pinned_index, id)
else
  redis.call('HSET', record, 'pinned', pinned)
  redis.call('ZADD', pinned_index, 0, id)
end
return 1
