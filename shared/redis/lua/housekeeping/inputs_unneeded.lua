-- Tell whether the input images of a job can be deleted: the job has ended, or was never accepted.
-- KEYS: record, uploads by time in ms
-- ARGV: id, age in ms after which an upload cannot become a job
-- Returns 1 or 0. 0 for an unknown job without an upload: another installation may own it.
local record, uploads = KEYS[1], KEYS[2]
local id, max_age_ms = ARGV[1], ARGV[2]

local state = redis.call('HGET', record, 'state')
if state then
  return (state ~= 'queued' and state ~= 'running') and 1 or 0
end
local uploaded_at = redis.call('ZSCORE', uploads, id)
return (uploaded_at and uploaded_at + max_age_ms < redis.call('TIME')[1] * 1000) and 1 or 0
