-- What a worker tells of the job it runs, and what it learns in return. Each report renews the job's lease.
-- KEYS: record, events, leases
-- ARGV: id, channel, attempt, progress ('' for none), preview ('' for none), events to keep, length of a lease in ms,
--       prefix of the webhooks
-- Returns 'continue', 'cancel' when somebody asked for that, or 'lost' when the job is no longer this worker's.
-- A preview is only pushed to who listens now: it is large, and the next one replaces it.
-- include webhooks/outbox
local id, channel = ARGV[1], ARGV[2]
local held = redis.call('HMGET', KEYS[1], 'state', 'attempt', 'cancel')
if held[1] ~= 'running' or held[2] ~= ARGV[3] then
  return 'lost'
end
local now = redis.call('TIME')
redis.call('ZADD', KEYS[3], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[7], id)
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'progress', ARGV[4])
  local event = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[6], '*', 'type', 'progress', 'data', ARGV[4])
  redis.call('PUBLISH', channel, id .. ' ' .. event .. ' progress ' .. ARGV[4])
  OUTBOX.tell_progress(ARGV[8], KEYS[1], id, ARGV[3], ARGV[4])
end
if ARGV[5] ~= '' then
  redis.call('PUBLISH', channel, id .. ' - preview ' .. ARGV[5])
end
if held[3] then
  return 'cancel'
end
return 'continue'
