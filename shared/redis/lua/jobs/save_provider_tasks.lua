-- Store the provider tasks of a running job.
-- KEYS: record
-- ARGV: attempt, tasks as JSON
-- Returns 1, or 0 when the job no longer runs in this attempt.
-- include limits/full_server
local record = KEYS[1]
local attempt, tasks = ARGV[1], ARGV[2]

local current = redis.call('HMGET', record, 'state', 'attempt')
if current[1] ~= 'running' or current[2] ~= attempt then
  return 0
end
redis.call('HSET', record, 'providers', tasks)
return 1
