-- Store the provider tasks of a running job.
-- KEYS: record
-- ARGV: attempt, tasks as JSON, '1' if one of them is about to be bought
-- Returns 'continue', 'cancel' when the job was cancelled and nothing is to be bought for it, or 'lost' when it no longer
-- runs in this attempt. Only for 'continue' they are stored.
-- include limits/full_server
local record = KEYS[1]
local attempt, tasks, is_purchase = ARGV[1], ARGV[2], ARGV[3] ~= ''

local current = redis.call('HMGET', record, 'state', 'attempt', 'cancel')
if current[1] ~= 'running' or current[2] ~= attempt then
  return 'lost'
elseif current[3] and is_purchase then
  return 'cancel'
end
redis.call('HSET', record, 'providers', tasks)
return 'continue'
