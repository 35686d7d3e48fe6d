-- Show all that listen to this server's events that they do. A replica refuses, because full_server writes: whoever asks it
-- is led to its successor, and those that still listen to it hear nothing.
-- KEYS: channel
-- Returns how many listen.
-- include limits/full_server
return redis.call('PUBLISH', KEYS[1] .. ':pings', '')
