-- Keep a job and its images from being cleared away, or no longer.
-- KEYS: record    ARGV: '1' or ''    Returns 1, or 0 when there is no such job.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[1] == '' then
  redis.call('HDEL', KEYS[1], 'pinned')
else
  redis.call('HSET', KEYS[1], 'pinned', ARGV[1])
end
return 1
