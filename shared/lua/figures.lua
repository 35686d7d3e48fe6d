-- What can be told of all jobs together.
-- KEYS: counts, index of running jobs, webhooks on their way, webhooks given up
-- ARGV: prefixes of: places in line, indexes by backend; highest rank in line, then the backends
-- Returns {counts as a flat list, {queued per backend}, {running per backend}, {id that waits longest or '' per backend},
--          on their way, given up}.
local queued, running, oldest = {}, {}, {}
for i = 4, #ARGV do
  queued[i - 3] = redis.call('ZCARD', ARGV[1] .. ARGV[i])
  running[i - 3] = #redis.call('ZINTER', 2, KEYS[2], ARGV[2] .. ARGV[i])
  oldest[i - 3] = ''
  for rank = 0, tonumber(ARGV[3]) do
    -- Within a rank, ids sort by creation.
    local first = redis.call('ZRANGEBYSCORE', ARGV[1] .. ARGV[i], rank, rank, 'LIMIT', 0, 1)[1]
    if first and (oldest[i - 3] == '' or first < oldest[i - 3]) then
      oldest[i - 3] = first
    end
  end
end
local counts = redis.call('HGETALL', KEYS[1])
return {counts, queued, running, oldest, redis.call('ZCARD', KEYS[3]), redis.call('ZCARD', KEYS[4])}
