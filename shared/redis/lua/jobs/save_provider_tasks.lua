-- Remember what a running job has with a provider.
-- KEYS: record    ARGV: attempt, its tasks with the provider
-- Returns 1, or 0 when the job is no longer this worker's.
local held = redis.call('HMGET', KEYS[1], 'state', 'attempt')
if held[1] ~= 'running' or held[2] ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'providers', ARGV[2])
return 1
