-- Accept a job: its record, its place in line and its message to the workers, all or nothing.
-- KEYS: record, events, queued index, place in line, broker list, then every index the job appears in
-- ARGV: id, channel, doc, backend, label, broker message, priority rank, limit of queued jobs
-- Returns 1, or 0 when the queue is full.
local id, channel = ARGV[1], ARGV[2]
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[8]) then
  return 0
end
redis.call('HSET', KEYS[1], 'doc', ARGV[3], 'state', 'queued', 'attempt', 0, 'backend', ARGV[4], 'label', ARGV[5])
redis.call('ZADD', KEYS[4], ARGV[7], id)
for i = 6, #KEYS do
  redis.call('ZADD', KEYS[i], 0, id)
end
redis.call('ZADD', KEYS[3], 0, id)
redis.call('LPUSH', KEYS[5], ARGV[6])
local event = redis.call('XADD', KEYS[2], '*', 'type', 'state', 'data', 'queued')
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' state queued')
return 1
