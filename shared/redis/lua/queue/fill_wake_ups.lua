-- Replace wake-ups that were lost, with a worker that died or by a broker that dropped them.
-- KEYS: queue, shares, wake-ups, lists of messages that versions before this one left behind    ARGV: wake-up
-- Returns how many were missing.
-- include queue/fair_queue
redis.call('UNLINK', unpack(KEYS, 4))
return QUEUE.wake({ queue = KEYS[1], shares = KEYS[2], wake_ups = KEYS[3] }, ARGV[1])
