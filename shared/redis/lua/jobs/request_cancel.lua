-- Ask the worker that runs the job to stop at its next step.
-- KEYS: record    Returns the job's state ('' when there is none); only a running job takes the flag.
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'running' then
  redis.call('HSET', KEYS[1], 'cancel', 1)
end
return state or ''
