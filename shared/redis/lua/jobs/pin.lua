-- Exempt a job and its images from retention, or end that.
-- KEYS: record
-- ARGV: '1' to pin, '' to unpin
-- Returns 1, or 0 for an unknown job.
local record = KEYS[1]
local pinned = ARGV[1]

if redis.call('EXISTS', record) == 0 then
  return 0
end
if pinned == '' then
  redis.call('HDEL', record, 'pinned')
else
  redis.call('HSET', record, 'pinned', pinned)
end
return 1
