-- Increment counters of models.
-- KEYS: counts
-- ARGV: pairs of a counter and its increment
-- Returns 1.
local counts = KEYS[1]

for i = 1, #ARGV, 2 do
  redis.call('HINCRBY', counts, ARGV[i], ARGV[i + 1])
end
return 1
