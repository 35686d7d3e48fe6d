-- Write down what became of an attempt to send a webhook.
-- KEYS: record of its job
-- ARGV: prefix of the webhooks, id, receiver, attempt,
--       what it is now ('delivered', 'pending', 'dropped' or 'dead'), status of the answer ('' for none),
--       what went wrong ('' for nothing), ms until it is sent again, '1' when the receiver could be reached,
--       '1' when it wants to hear no more, failures in a row after which it is left alone, for how many ms at first,
--       and at most, how long what is dead is kept in ms, how many of those,
--       where counts are kept, what is counted, how much
-- include outbox
local p, id, receiver, state = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local key, now = p .. 'event:' .. id, OUTBOX.clock()
local held = redis.call('HMGET', key, 'attempts', 'next')

local function note_health()
  local health = p .. 'health:' .. receiver
  if ARGV[9] == '1' then
    redis.call('DEL', health)
    return
  end
  local beyond = redis.call('HINCRBY', health, 'failures', 1) - ARGV[11]
  if beyond >= 0 then
    redis.call('HSET', health, 'until', now + math.min(ARGV[12] * 2 ^ math.min(beyond, 30), ARGV[13]))
  end
  redis.call('PEXPIRE', health, 86400000)
end

local function bury()
  redis.call('ZREM', p .. 'queue:' .. receiver, id)
  OUTBOX.list(p, id, 'dead', 'pending')
  redis.call('PEXPIRE', key, ARGV[14])
  redis.call('PEXPIRE', p .. 'dead', ARGV[14])
  redis.call('PEXPIRE', p .. 'dead:' .. redis.call('HGET', key, 'owner'), ARGV[14])
  local oldest = redis.call('ZRANGE', p .. 'dead', 0, 9)
  local surplus = redis.call('ZCARD', p .. 'dead') - ARGV[15]
  for place, buried in ipairs(oldest) do
    if place <= surplus or redis.call('EXISTS', p .. 'event:' .. buried) == 0 then
      OUTBOX.list(p, buried, '', 'dead')
      redis.call('DEL', p .. 'event:' .. buried)
      redis.call('ZREM', p .. 'dead', buried)
    end
  end
end

redis.call('ZREM', p .. 'flying:' .. receiver, id)
note_health()
-- Whoever took it over when the lease had lapsed tells of it; but what has arrived has arrived.
if held[1] and redis.call('ZSCORE', p .. 'pending', id) and (held[1] == ARGV[4] or state == 'delivered') then
  redis.call('HSET', key, 'tried', now, 'status', ARGV[6], 'error', ARGV[7])
  redis.call('HINCRBY', ARGV[16], ARGV[17], ARGV[18])
  local again = state == 'pending' and now + ARGV[8] or nil
  OUTBOX.remember(p, KEYS[1], id, state, again)
  if again then
    redis.call('ZADD', p .. 'queue:' .. receiver, again, id)
  elseif state == 'dead' then
    bury()
  else
    OUTBOX.discard(p, receiver, id)
  end
  if held[2] and redis.call('ZSCORE', p .. 'queue:' .. receiver, held[2])
    and redis.call('HGET', p .. 'event:' .. held[2], 'attempts') == '0' then
    redis.call('ZADD', p .. 'queue:' .. receiver, now, held[2])
  end
end
if ARGV[10] == '1' then
  redis.call('HDEL', KEYS[1], 'receiver')
end
OUTBOX.schedule(p, receiver)
redis.call('PUBLISH', p .. 'news', receiver)
return 1
