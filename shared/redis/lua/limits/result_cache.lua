-- The job that made certain images.
-- KEYS: its id by what they follow from    ARGV: an id and for how many milliseconds to remember it, or nothing
-- Returns the id, or nil.
if ARGV[1] then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return redis.call('GET', KEYS[1])
