-- Send a webhook now: a dead one, or one that waits for its next attempt.
-- KEYS: record of its job
-- ARGV: prefix of webhook keys, id, required owner ('*' for any)
-- Returns its row (see OUTBOX.row), or nil for an unknown webhook.
-- include webhooks/outbox
local record = KEYS[1]
local prefix, id, required_owner = ARGV[1], ARGV[2], ARGV[3]

local webhook = prefix .. 'event:' .. id
local fields = redis.call('HMGET', webhook, 'receiver', 'owner')
local queue, owner = fields[1], fields[2]
if not queue or (required_owner ~= '*' and owner ~= required_owner) then
  return nil
end
if redis.call('ZSCORE', prefix .. 'flying:' .. queue, id) then
  return OUTBOX.row(prefix, id)
end
redis.call('HSET', webhook, 'attempts', 0)
redis.call('PERSIST', webhook)
OUTBOX.set_status(prefix, id, 'pending', 'dead')
redis.call('ZADD', prefix .. 'queue:' .. queue, now, id)
redis.call('HDEL', prefix .. 'health:' .. queue, 'until')
redis.call('HDEL', prefix .. 'down:' .. OUTBOX.origin(queue), 'until')
OUTBOX.save_delivery(prefix, record, id, 'pending', now)
OUTBOX.schedule(prefix, queue)
redis.call('PUBLISH', prefix .. 'news', queue)
return OUTBOX.row(prefix, id)
