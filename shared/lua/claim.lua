-- Take webhooks that are due, under a lease: who dies with them has them sent by others when it lapses.
-- KEYS: receivers by when there is something to be sent to them
-- ARGV: prefix of the webhooks, most to take, most at a time for one receiver, lease in ms
-- Returns {ms until more is due or -1, {{id, receiver, event, attempt, made at, doc, progress, providers, pinned}, ...}}.
-- include outbox
local p, most, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local now = OUTBOX.clock()
local taken = {}

local function take(receiver, id)
  local key = p .. 'event:' .. id
  if redis.call('EXISTS', key) == 0 then
    redis.call('ZREM', p .. 'queue:' .. receiver, id)
    return
  end
  local attempt = redis.call('HINCRBY', key, 'attempts', 1)
  redis.call('ZADD', p .. 'queue:' .. receiver, now + lease, id)
  redis.call('ZADD', p .. 'flying:' .. receiver, now + lease, id)
  local held = redis.call('HMGET', key, 'event', 'at', 'doc', 'progress', 'providers', 'pinned')
  taken[#taken + 1] = { id, receiver, held[1], attempt, tonumber(held[2]), held[3], held[4], held[5], held[6] }
end

for _, receiver in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  if #taken == most then
    break
  end
  redis.call('ZREMRANGEBYSCORE', p .. 'flying:' .. receiver, '-inf', now)
  -- One that could not be reached is tried with one webhook, not with many.
  local together = redis.call('EXISTS', p .. 'health:' .. receiver) == 1 and 1 or tonumber(ARGV[3])
  local room = math.min(together - redis.call('ZCARD', p .. 'flying:' .. receiver), most - #taken)
  if room > 0 then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', p .. 'queue:' .. receiver, '-inf', now, 'LIMIT', 0, room)) do
      take(receiver, id)
    end
  end
  OUTBOX.schedule(p, receiver, together)
end
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return { first and math.max(0, first - now) or -1, taken }
