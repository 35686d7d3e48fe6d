-- Read the session of a caller, or change fields of it first.
-- KEYS: the session
-- ARGV: lifetime in ms, then fields and their values; an empty value removes the field
-- Returns fields and values.
local session = KEYS[1]
local lifetime_ms = ARGV[1]

for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', session, ARGV[i])
  else
    redis.call('HSET', session, ARGV[i], ARGV[i + 1])
  end
end
if #ARGV > 1 then
  redis.call('PEXPIRE', session, lifetime_ms)
end
return redis.call('HGETALL', session)
