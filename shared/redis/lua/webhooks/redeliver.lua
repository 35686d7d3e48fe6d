-- Send a webhook now: one that was given up, or one that waits for its next attempt.
-- KEYS: record of its job    ARGV: prefix of the webhooks, id, whose it must be ('*' for anyone's)
-- Returns its row (see OUTBOX.row), or nothing when there is no such webhook.
-- include webhooks/outbox
local p, id = ARGV[1], ARGV[2]
local key, now = p .. 'event:' .. id, OUTBOX.clock()
local held = redis.call('HMGET', key, 'receiver', 'owner')
local queue = held[1]
if not queue or (ARGV[3] ~= '*' and held[2] ~= ARGV[3]) then
  return nil
end
if redis.call('ZSCORE', p .. 'flying:' .. queue, id) then
  return OUTBOX.row(p, id)
end
redis.call('HSET', key, 'attempts', 0)
redis.call('PERSIST', key)
OUTBOX.list(p, id, 'pending', 'dead')
redis.call('ZADD', p .. 'queue:' .. queue, now, id)
redis.call('HDEL', p .. 'health:' .. queue, 'until')
redis.call('HDEL', p .. 'down:' .. OUTBOX.origin(queue), 'until')
OUTBOX.remember(p, KEYS[1], id, 'pending', now)
OUTBOX.schedule(p, queue)
redis.call('PUBLISH', p .. 'news', queue)
return OUTBOX.row(p, id)
