-- Ask the worker of a running job to stop at its next step.
-- KEYS: record
-- Returns the job's state, '' for an unknown job. Only a running job gets the flag.
-- include limits/full_server
local record = KEYS[1]

local state = redis.call('HGET', record, 'state')
if state == 'running' then
  redis.call('HSET', record, 'cancel', 1)
end
return state or ''
