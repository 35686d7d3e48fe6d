-- Read a value that all processes share; the first proposal becomes that value.
-- KEYS: the value
-- ARGV: proposal
-- Returns the value.
-- include limits/full_server
local secret = KEYS[1]
local proposal = ARGV[1]

redis.call('SET', secret, proposal, 'NX')
return redis.call('GET', secret)
