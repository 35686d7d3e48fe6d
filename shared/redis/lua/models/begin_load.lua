-- Note that a worker begins to load a model, unless too many loads have ended their process: those never end.
-- KEYS: loads of the model that have not ended, by worker; index of workers by the time in ms at which they expire
-- ARGV: worker, how many lost loads are too many, lifetime in ms
-- Returns 1, or 0 if the model is not to be loaded.
-- include commands/now
local unfinished, workers = KEYS[1], KEYS[2]
local worker, max_lost, lifetime_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local num_lost = 0
local flat = redis.call('HGETALL', unfinished)
for i = 1, #flat, 2 do
  -- The latest load of another living worker may go on. This worker loads one model at a time.
  local may_go_on = flat[i] ~= worker and tonumber(redis.call('ZSCORE', workers, flat[i]) or 0) > now
  num_lost = num_lost + flat[i + 1] - (may_go_on and 1 or 0)
end
if num_lost >= max_lost then
  return 0
end
redis.call('HINCRBY', unfinished, worker, 1)
redis.call('PEXPIRE', unfinished, lifetime_ms)
return 1
