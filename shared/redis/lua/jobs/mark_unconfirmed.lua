-- Mark a job as unconfirmed, if it exists: the next identical request gets it.
-- KEYS: record, unconfirmed jobs of the request
-- ARGV: id, lifetime in ms
-- Returns 1.
-- include jobs/unconfirmed
local record, unconfirmed = KEYS[1], KEYS[2]
local id, lifetime_ms = ARGV[1], ARGV[2]

-- Others would fill a full server, which refuses their jobs but not this.
if redis.call('EXISTS', record) == 1 then
  UNCONFIRMED.add(unconfirmed, id, lifetime_ms)
end
return 1
