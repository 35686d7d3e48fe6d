-- Write down what became of an attempt to send a webhook.
-- KEYS: record of its job
-- ARGV: prefix of the webhooks, id, its queue, attempt,
--       what it is now ('delivered', 'pending', 'dropped' or 'dead'), status of the answer ('' for none),
--       what went wrong ('' for nothing), ms until it is sent again,
--       how far it got: 'answered', 'refused' (the receiver takes nothing now) or 'away' (nobody could connect),
--       '1' when the receiver wants to hear no more, failures in a row after which it is left alone, for how many ms at
--       first, and at most, how long what is dead is kept in ms, how many of those of one owner,
--       where counts are kept, what is counted, how much
-- include webhooks/outbox
local p, id, queue, state = ARGV[1], ARGV[2], ARGV[3], ARGV[5]
local key, now = p .. 'event:' .. id, OUTBOX.clock()
local held = redis.call('HMGET', key, 'attempts', 'next', 'owner')

local function failed(health)
  local beyond = redis.call('HINCRBY', health, 'failures', 1) - ARGV[11]
  if beyond >= 0 then
    redis.call('HSET', health, 'until', now + math.min(ARGV[12] * 2 ^ math.min(beyond, 30), ARGV[13]))
  end
  redis.call('HDEL', health, 'trial')
  redis.call('PEXPIRE', health, 86400000)
end

-- Whether an origin is there at all is the same for everybody; what else goes wrong may be for one path of it alone.
local function note_health()
  local down, health = p .. 'down:' .. OUTBOX.origin(queue), p .. 'health:' .. queue
  if ARGV[9] == 'away' then
    failed(down)
    return
  end
  redis.call('DEL', down)
  if ARGV[9] == 'refused' then
    failed(health)
  else
    redis.call('DEL', health)
  end
end

local function unlist(list, surplus)
  for place, buried in ipairs(redis.call('ZRANGE', list, 0, 9)) do
    if place <= surplus or redis.call('EXISTS', p .. 'event:' .. buried) == 0 then
      redis.call('ZREM', list, buried)
      redis.call('ZREM', p .. 'dead', buried)
      redis.call('DEL', p .. 'event:' .. buried)
    end
  end
end

local function bury()
  local own = p .. 'dead:' .. held[3]
  redis.call('ZREM', p .. 'queue:' .. queue, id)
  OUTBOX.list(p, id, 'dead', 'pending')
  for _, lasting in ipairs({ key, p .. 'dead', own }) do
    redis.call('PEXPIRE', lasting, ARGV[14])
  end
  unlist(own, redis.call('ZCARD', own) - ARGV[15])
  unlist(p .. 'dead', 0)
end

note_health()
-- Whoever took it over when the lease had lapsed tells of it; but what has arrived has arrived.
local is_ours = held[1] == ARGV[4] or state == 'delivered'
if not held[1] or is_ours then
  OUTBOX.landed(p, queue, id)
end
if is_ours and redis.call('ZSCORE', p .. 'pending', id) then
  redis.call('HSET', key, 'tried', now, 'status', ARGV[6], 'error', ARGV[7])
  redis.call('HINCRBY', ARGV[16], ARGV[17], ARGV[18])
  local again = state == 'pending' and now + ARGV[8] or nil
  OUTBOX.remember(p, KEYS[1], id, state, again)
  if again then
    redis.call('ZADD', p .. 'queue:' .. queue, again, id)
  elseif state == 'dead' then
    bury()
  else
    OUTBOX.discard(p, id)
  end
  local after = redis.call('HMGET', p .. 'event:' .. (held[2] or ''), 'receiver', 'attempts')
  if after[2] == '0' then
    redis.call('ZADD', p .. 'queue:' .. after[1], now, held[2])
    OUTBOX.schedule(p, after[1])
  end
end
if ARGV[10] == '1' then
  redis.call('HDEL', KEYS[1], 'receiver')
  for _, other in pairs(cjson.decode(redis.call('HGET', KEYS[1], 'deliveries') or '{}')) do
    if other.state == 'pending' and other.id ~= id then
      OUTBOX.drop(p, KEYS[1], other.id, 'gone', 'its receiver wants to hear no more of this job')
    end
  end
end
OUTBOX.schedule(p, queue)
redis.call('PUBLISH', p .. 'news', queue)
return 1
