-- Tell which jobs an owner has.
-- KEYS: records
-- ARGV: owner
-- Returns 1 for each record of this owner, 0 for records of others and for missing ones.
local owner = ARGV[1]

local is_owned = {}
for i, record in ipairs(KEYS) do
  is_owned[i] = redis.call('HGET', record, 'owner') == owner and 1 or 0
end
return is_owned
