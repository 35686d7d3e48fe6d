-- Read the job that made certain images, or replace it first.
-- KEYS: its id, by the fingerprint of the images
-- ARGV: nothing to read; to replace: id, lifetime in ms
-- Returns the id, or nil.
local entry = KEYS[1]
local id, lifetime_ms = ARGV[1], ARGV[2]

if id then
  redis.call('SET', entry, id, 'PX', lifetime_ms)
end
return redis.call('GET', entry)
