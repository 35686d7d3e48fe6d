-- Move a job, if it is still where the mover believes it to be: compare-and-set on (state, attempt).
-- KEYS: record, events, index of the old state, index of the new state, place in line, broker list, leases, pace,
--       deadlines, the owner's jobs that have not ended
-- ARGV: id, channel, old state, old attempt, new state, new attempt, doc,
--       broker message ('' unless it goes back in line), priority rank, lifetime of the events in ms ('' unless it ends),
--       length of a lease in ms, what was made ('' unless it succeeded), how many ms that took, prefix of the webhooks,
--       where counts are kept, then what is counted and how much of each
-- Returns 1, or 0 when somebody else moved it first or it is gone.
-- include outbox
local TOLD_AS = { running = 'started', succeeded = 'succeeded', failed = 'failed', cancelled = 'cancelled' }
local id, channel, new = ARGV[1], ARGV[2], ARGV[5]
local held = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if held[1] ~= ARGV[3] or held[2] ~= ARGV[4] then
  return 0
end
redis.call('HSET', KEYS[1], 'doc', ARGV[7], 'state', new, 'attempt', ARGV[6])
redis.call('HDEL', KEYS[1], 'progress')
redis.call('ZREM', KEYS[3], id)
redis.call('ZADD', KEYS[4], 0, id)
redis.call('ZREM', KEYS[5], id)
redis.call('ZREM', KEYS[9], id)
if new == 'running' then
  local now = redis.call('TIME')
  redis.call('ZADD', KEYS[7], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[11], id)
else
  redis.call('ZREM', KEYS[7], id)
end
if ARGV[8] ~= '' then
  redis.call('ZADD', KEYS[5], ARGV[9], id)
  -- It has waited already: it goes to the end from which workers take.
  redis.call('RPUSH', KEYS[6], ARGV[8])
end
local type = 'state'
if ARGV[10] ~= '' then
  type = 'done'
  redis.call('HDEL', KEYS[1], 'cancel', 'expected')
  redis.call('SREM', KEYS[10], id)
end
if ARGV[12] ~= '' then
  -- A mean that forgets: the newest run counts for three tenths.
  for _, kind in ipairs({ARGV[12], '*'}) do
    local mean = tonumber(redis.call('HGET', KEYS[8], kind) or ARGV[13])
    redis.call('HSET', KEYS[8], kind, math.floor(0.7 * mean + 0.3 * ARGV[13] + 0.5))
  end
  if redis.call('HLEN', KEYS[8]) > 256 then
    redis.call('DEL', KEYS[8])
  end
end
for i = 16, #ARGV, 2 do
  redis.call('HINCRBY', ARGV[15], ARGV[i], ARGV[i + 1])
end
local event = redis.call('XADD', KEYS[2], '*', 'type', type, 'data', new)
if ARGV[10] ~= '' then
  redis.call('PEXPIRE', KEYS[2], ARGV[10])
end
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' ' .. type .. ' ' .. new)
local told_as = TOLD_AS[new]
if told_as then
  OUTBOX.tell(ARGV[14], KEYS[1], id, told_as, id .. '_' .. told_as .. '_' .. ARGV[6], ARGV[7], '')
end
return 1
