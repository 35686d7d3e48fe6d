-- Publish a ping, so that subscribers know that they listen to the current server. A replica refuses, because full_server
-- writes: the caller then reconnects to its successor, and subscribers of the replica get no ping.
-- KEYS: channel
-- Returns the number of subscribers.
-- include limits/full_server
return redis.call('PUBLISH', KEYS[1] .. ':pings', '')
