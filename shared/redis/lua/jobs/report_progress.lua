-- Report the progress of a running job and renew its lease.
-- KEYS: record, events, leases
-- ARGV: id, event channel, attempt, progress as JSON ('' for none), preview as JSON ('' for none), events to keep,
--       lease in ms, prefix of webhook keys
-- Returns 'continue', 'cancel' when that was requested, or 'lost' when the job no longer runs in this attempt.
-- A preview is published, not stored: it is large, and the next one replaces it.
-- include limits/full_server
-- include webhooks/outbox
local record, events, leases = KEYS[1], KEYS[2], KEYS[3]
local id, channel, attempt, progress, preview = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_events, lease_ms, webhooks = ARGV[6], ARGV[7], ARGV[8]

local current = redis.call('HMGET', record, 'state', 'attempt', 'cancel')
if current[1] ~= 'running' or current[2] ~= attempt then
  return 'lost'
end
redis.call('ZADD', leases, now + lease_ms, id)
if progress ~= '' then
  redis.call('HSET', record, 'progress', progress)
  local event = redis.call('XADD', events, 'MAXLEN', '~', max_events, '*', 'type', 'progress', 'data', progress)
  redis.call('PUBLISH', channel, id .. ' ' .. event .. ' progress ' .. progress)
  OUTBOX.add_progress(webhooks, record, id, attempt, progress)
end
if preview ~= '' then
  redis.call('PUBLISH', channel, id .. ' - preview ' .. preview)
end
if current[3] then
  return 'cancel'
end
return 'continue'
