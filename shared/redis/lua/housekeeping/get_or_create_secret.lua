-- A secret that all processes share: the first one that was proposed.
-- KEYS: the secret    ARGV: a proposal    Returns the secret.
redis.call('SET', KEYS[1], ARGV[1], 'NX')
return redis.call('GET', KEYS[1])
