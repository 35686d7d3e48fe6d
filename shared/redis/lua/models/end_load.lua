-- Note that a load has ended, whether it succeeded or not. Those that were lost before no longer count.
-- KEYS: loads of the model that have not ended
-- Returns 1.
redis.call('DEL', KEYS[1])
return 1
