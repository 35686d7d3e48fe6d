-- Move a job, if it is still where the mover believes it to be: compare-and-set on (state, attempt).
-- KEYS: record, events, index of the old state, index of the new state, place in line, broker list
-- ARGV: id, channel, old state, old attempt, new state, new attempt, doc,
--       broker message ('' unless it goes back in line), priority rank, lifetime of the events in ms ('' unless it ends)
-- Returns 1, or 0 when somebody else moved it first or it is gone.
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
if ARGV[8] ~= '' then
  redis.call('ZADD', KEYS[5], ARGV[9], id)
  -- It has waited already: it goes to the end from which workers take.
  redis.call('RPUSH', KEYS[6], ARGV[8])
end
local type = 'state'
if ARGV[10] ~= '' then
  type = 'done'
  redis.call('HDEL', KEYS[1], 'cancel')
end
local event = redis.call('XADD', KEYS[2], '*', 'type', type, 'data', new)
if ARGV[10] ~= '' then
  redis.call('PEXPIRE', KEYS[2], ARGV[10])
end
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' ' .. type .. ' ' .. new)
return 1
