-- What can be told of all jobs together.
-- KEYS: counts, index of running jobs, index of queued jobs, webhooks on their way, webhooks given up
-- ARGV: prefixes of: queues, indexes by backend, records; then the backends
-- Returns {counts as a flat list, {queued per backend}, {running per backend}, {id that waits longest or '' per backend},
--          on their way, given up}.
local MOST_LOOKED_AT = 200
local queued, running, oldest, number = {}, {}, {}, {}
for i = 4, #ARGV do
  queued[i - 3] = redis.call('ZCARD', ARGV[1] .. ARGV[i])
  running[i - 3] = #redis.call('ZINTER', 2, KEYS[2], ARGV[2] .. ARGV[i])
  oldest[i - 3] = ''
  number[ARGV[i]] = i - 3
end
-- Ids sort by creation.
for _, id in ipairs(redis.call('ZRANGE', KEYS[3], 0, MOST_LOOKED_AT - 1)) do
  local i = number[redis.call('HGET', ARGV[3] .. id, 'backend')]
  if i and oldest[i] == '' then
    oldest[i] = id
  end
end
local counts = redis.call('HGETALL', KEYS[1])
return {counts, queued, running, oldest, redis.call('ZCARD', KEYS[4]), redis.call('ZCARD', KEYS[5])}
