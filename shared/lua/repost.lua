-- Give a queued job a message again.
-- KEYS: record, place in line, broker list    ARGV: id, broker message, priority rank
-- Returns 1, or 0 when the job is not queued any more.
if redis.call('HGET', KEYS[1], 'state') ~= 'queued' then
  return 0
end
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
redis.call('LPUSH', KEYS[3], ARGV[2])
return 1
