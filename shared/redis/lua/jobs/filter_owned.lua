-- KEYS: records    ARGV: owner
-- Returns 1 for each record that is this owner's, and 0 for others and those that are gone.
local owned = {}
for i, record in ipairs(KEYS) do
  owned[i] = redis.call('HGET', record, 'owner') == ARGV[1] and 1 or 0
end
return owned
