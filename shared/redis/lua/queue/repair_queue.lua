-- Adopt what the version before left in its queue, and replace wake-ups that were lost with a worker or by the broker.
--
-- The queue was called line:<backend> until version 0.1. Processes of that version may still run and use it while others
-- are upgraded, so this script runs whenever a process starts and regularly afterwards. Each job is in one of the two.
--
-- KEYS: queue, shares, wake-ups, former queue, then lists of wake-ups that nothing reads any more
-- ARGV: message of a wake-up
-- Returns how many wake-ups were missing.
-- include queue/fair_queue
local q = { queue = KEYS[1], shares = KEYS[2], wake_ups = KEYS[3] }
local former_queue, first_former_list = KEYS[4], 5
local message = ARGV[1]

redis.call('UNLINK', unpack(KEYS, first_former_list))
if redis.call('EXISTS', former_queue) == 1 then
  redis.call('ZUNIONSTORE', q.queue, 2, q.queue, former_queue, 'AGGREGATE', 'MIN')
  redis.call('DEL', former_queue)
end
return QUEUE.wake(q, message)
