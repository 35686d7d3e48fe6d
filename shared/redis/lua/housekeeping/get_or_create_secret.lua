-- Read a value that all processes share; the first proposal becomes that value.
-- KEYS: the value
-- ARGV: proposal
-- Returns the value.
local secret = KEYS[1]
local proposal = ARGV[1]

-- Without a write: a server whose disk is full refuses all of them, and whoever deletes images needs to know the value.
local value = redis.call('GET', secret)
if value then
  return value
end
-- include limits/full_server
redis.call('SET', secret, proposal)
return proposal
