-- Take the commands of a worker, and read which models must stay in memory.
-- KEYS: commands of the worker, pinned models of the backend
-- Returns {{commands as JSON, oldest first}, {pinned models}}.
local commands, pinned = KEYS[1], KEYS[2]

local taken = redis.call('LRANGE', commands, 0, -1)
redis.call('DEL', commands)
return { taken, redis.call('SMEMBERS', pinned) }
