-- Let one of several do what is to be done once in a while.
-- KEYS: the turn    ARGV: how long it is in ms    Returns 1, or 0 while it is somebody's.
return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0
