-- Take webhooks that are due, under a lease: who dies with them has them sent by others when it lapses.
-- KEYS: owners by when there is something to be sent for them
-- ARGV: prefix of the webhooks, most to take, most at a time of one queue, lease in ms
-- Returns {ms until more is due or -1, {{id, queue, event, attempt, made at, doc, progress, providers, pinned}, ...}}.
--
-- Owners get one each in turn. One may have twice as many under way as there are free senders, so that some are always
-- left for others, however many receivers one owner has that hang.
-- include webhooks/outbox
local p, most, together, lease = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local now = OUTBOX.clock()
local taken, looks, wait = {}, 500, nil
-- While somebody finds out whether an origin can be connected to, others look again after so long.
local TRIAL = 500

-- What was on its way before queues had owners.
if redis.call('EXISTS', p .. 'due') == 1 then
  redis.call('ZUNIONSTORE', p .. 'due:', 2, p .. 'due:', p .. 'due', 'AGGREGATE', 'MIN')
  redis.call('DEL', p .. 'due')
  OUTBOX.turn(p .. 'owners', '', OUTBOX.first(p .. 'due:'))
end

-- When a queue may be sent to again, nil for now.
local function closed(queue)
  local health = redis.call('HMGET', p .. 'health:' .. queue, 'failures', 'until')
  local down = redis.call('HMGET', p .. 'down:' .. OUTBOX.origin(queue), 'until', 'trial')
  local at = math.max(tonumber(health[2] or 0), tonumber(down[1] or 0))
  if at > now then
    return at
  elseif tonumber(down[2] or 0) > now then
    return now + TRIAL
  -- One that turned us away is tried with one webhook, not with many.
  elseif OUTBOX.flying(p, queue, now) >= (health[1] and 1 or together) then
    return OUTBOX.first(p .. 'flying:' .. queue)
  end
end

local function take(queue, id)
  local attempt = redis.call('HINCRBY', p .. 'event:' .. id, 'attempts', 1)
  for _, line in ipairs({ 'queue:' .. queue, 'flying:' .. queue, 'flying:' .. OUTBOX.owner(queue) }) do
    redis.call('ZADD', p .. line, now + lease, id)
  end
  local down = p .. 'down:' .. OUTBOX.origin(queue)
  if redis.call('EXISTS', down) == 1 then
    redis.call('HSET', down, 'trial', now + lease)
  end
  local held = redis.call('HMGET', p .. 'event:' .. id, 'event', 'at', 'doc', 'progress', 'providers', 'pinned')
  taken[#taken + 1] = { id, queue, held[1], attempt, tonumber(held[2]), held[3], held[4], held[5], held[6] }
end

-- Take what is first in a queue; false where nothing is due.
local function take_first(queue)
  while true do
    local id = redis.call('ZRANGEBYSCORE', p .. 'queue:' .. queue, '-inf', now, 'LIMIT', 0, 1)[1]
    if not id then
      return false
    elseif redis.call('EXISTS', p .. 'event:' .. id) == 1 then
      take(queue, id)
      return true
    end
    redis.call('ZREM', p .. 'queue:' .. queue, id)
  end
end

-- Take one webhook of an owner; false where none of its queues that are due can be sent to.
local function serve(owner)
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', p .. 'due:' .. owner, '-inf', now + 1, 'LIMIT', 0, looks)) do
    looks = looks - 1
    local at = closed(queue)
    local took = not at and take_first(queue)
    OUTBOX.schedule(p, queue, at, true)
    if took then
      return true
    end
  end
  -- What it is in line for has changed, or there is no more of it.
  OUTBOX.turn(p .. 'owners', owner, OUTBOX.first(p .. 'due:' .. owner))
  return false
end

local function soon(at)
  wait = math.min(wait or math.huge, math.max(0, at - now))
end

local progress = true
while progress and #taken < most and looks > 0 do
  progress = false
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', p .. 'owners', '-inf', now + 1, 'LIMIT', 0, 1000)) do
    if #taken == most or looks <= 0 then
      break
    elseif OUTBOX.flying(p, owner, now) < 2 * (most - #taken) then
      progress = serve(owner) or progress
    else
      soon(OUTBOX.first(p .. 'flying:' .. owner))
    end
  end
end
if #taken == most or looks <= 0 then
  soon(now)
else
  local later = redis.call('ZRANGEBYSCORE', p .. 'owners', '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if later then
    soon(tonumber(later))
  end
end
return { wait or -1, taken }
