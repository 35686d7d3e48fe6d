-- Rate limit (GCRA): one timestamp per account, the time until which its share is used up.
-- KEYS: that timestamp, in microseconds
-- ARGV: microseconds per unit, burst in microseconds, units required now, optional units to take beyond that if allowed
-- Returns the units taken, or the error 'RATE <milliseconds to wait>' when the limit is exceeded.
-- include limits/full_server
local account = KEYS[1]
local cost, burst, required, optional = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])

local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local used_until = math.max(tonumber(redis.call('GET', account) or 0), now)
-- No request costs so much: the server's clock was set back.
if used_until - now > burst + 256 * cost then
  used_until = now
end
if used_until - now > burst then
  return redis.error_reply('RATE ' .. math.ceil((used_until - now - burst) / 1000))
end
-- Required units may exceed the share; later requests wait for them. Otherwise an expensive request could never pass.
local allowed = math.floor((burst - (used_until - now)) / cost) + 1 - required
local taken = required + math.max(0, math.min(allowed, optional))
used_until = used_until + taken * cost
redis.call('SET', account, string.format('%.0f', used_until), 'PX', math.ceil((used_until - now) / 1000))
return taken
