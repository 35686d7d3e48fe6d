-- Mark a job as unconfirmed: the next identical request gets it, if it was accepted.
-- KEYS: unconfirmed jobs of the request
-- ARGV: id, lifetime in ms
-- Returns 1.
-- include jobs/unconfirmed
local unconfirmed = KEYS[1]
local id, lifetime_ms = ARGV[1], ARGV[2]

UNCONFIRMED.add(unconfirmed, id, lifetime_ms)
return 1
