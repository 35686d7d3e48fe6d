-- List jobs whose lease or deadline has passed, by the server's clock.
-- KEYS: leases or deadlines by time in ms
-- ARGV: most ids to return, and for leases how long one lasts in ms
-- Returns their ids.
-- include commands/now
local times = KEYS[1]
local limit, lease_ms = ARGV[1], ARGV[2]

local ids = redis.call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, limit)
if lease_ms then
  -- No lease ends later: the server's clock was set back.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', times, '(' .. now + lease_ms, '+inf', 'LIMIT', 0, limit)) do
    ids[#ids + 1] = id
  end
end
return ids
