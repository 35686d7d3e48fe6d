-- Whether nobody will need the images of a job any more: it is known to have ended, or never to have been accepted.
-- KEYS: record, uploads by time    ARGV: id, age in ms from which on an upload will not become a job
-- Returns 1 or 0. A job that is not known, and whose images did not come here, is somebody else's.
local state = redis.call('HGET', KEYS[1], 'state')
if state then
  return (state ~= 'queued' and state ~= 'running') and 1 or 0
end
local came = redis.call('ZSCORE', KEYS[2], ARGV[1])
return (came and came + ARGV[2] < redis.call('TIME')[1] * 1000) and 1 or 0
