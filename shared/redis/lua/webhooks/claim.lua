-- Claim webhooks that are due, under a lease: when it expires, they are sent by another process.
-- KEYS: owners by when one of their queues is due
-- ARGV: prefix of webhook keys, most to claim, most in flight per queue, lease in ms
-- Returns {ms until more are due or -1, {{id, queue, event, attempt, occurred at, doc, progress, providers, pinned}, ...}}.
--
-- Owners get one each in turn. One owner may have twice as many in flight as there are free senders, so that some senders
-- are always left for others, however many of its receivers hang.
-- include webhooks/outbox
local owners = KEYS[1]
local prefix, limit, max_per_queue, lease_ms = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- While one process tests whether it can connect to an origin, others look again after this time.
local TRIAL_MS = 500

local claimed, budget, wait_ms = {}, 500, nil

-- Webhooks that were pending before queues had owners.
if redis.call('EXISTS', prefix .. 'due') == 1 then
  redis.call('ZUNIONSTORE', prefix .. 'due:', 2, prefix .. 'due:', prefix .. 'due', 'AGGREGATE', 'MIN')
  redis.call('DEL', prefix .. 'due')
  OUTBOX.set_turn(owners, '', OUTBOX.first_due(prefix .. 'due:'))
end

-- When a queue may be sent to again, nil for now.
local function blocked_until(queue)
  local health = redis.call('HMGET', prefix .. 'health:' .. queue, 'failures', 'until')
  local down = redis.call('HMGET', prefix .. 'down:' .. OUTBOX.origin(queue), 'until', 'trial')
  local skipped_until = math.max(tonumber(health[2] or 0), tonumber(down[1] or 0))
  if skipped_until > now then
    return skipped_until
  elseif tonumber(down[2] or 0) > now then
    return now + TRIAL_MS
  -- A receiver that refused is tried with one webhook.
  elseif OUTBOX.num_in_flight(prefix, queue, now) >= (health[1] and 1 or max_per_queue) then
    return OUTBOX.first_due(prefix .. 'flying:' .. queue)
  end
end

local function claim(queue, id)
  local attempt = redis.call('HINCRBY', prefix .. 'event:' .. id, 'attempts', 1)
  for _, key in ipairs({ 'queue:' .. queue, 'flying:' .. queue, 'flying:' .. OUTBOX.owner(queue) }) do
    redis.call('ZADD', prefix .. key, now + lease_ms, id)
  end
  local down = prefix .. 'down:' .. OUTBOX.origin(queue)
  if redis.call('EXISTS', down) == 1 then
    redis.call('HSET', down, 'trial', now + lease_ms)
  end
  local fields = redis.call('HMGET', prefix .. 'event:' .. id, 'event', 'at', 'doc', 'progress', 'providers', 'pinned')
  local event, occurred_at, doc, progress, providers, pinned = unpack(fields)
  claimed[#claimed + 1] = { id, queue, event, attempt, tonumber(occurred_at), doc, progress, providers, pinned }
end

-- Claim the first webhook of a queue; false if none is due.
local function claim_first(queue)
  while true do
    local id = redis.call('ZRANGEBYSCORE', prefix .. 'queue:' .. queue, '-inf', now, 'LIMIT', 0, 1)[1]
    if not id then
      return false
    elseif redis.call('EXISTS', prefix .. 'event:' .. id) == 1 then
      claim(queue, id)
      return true
    end
    redis.call('ZREM', prefix .. 'queue:' .. queue, id)
  end
end

-- Claim one webhook of an owner; false if none of its due queues can be sent to.
local function serve(owner)
  for _, queue in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'due:' .. owner, '-inf', now + 1, 'LIMIT', 0, budget)) do
    budget = budget - 1
    local blocked = blocked_until(queue)
    local is_claimed = not blocked and claim_first(queue)
    OUTBOX.schedule(prefix, queue, blocked, true)
    if is_claimed then
      return true
    end
  end
  -- The first due queue has changed, or there is none left.
  OUTBOX.set_turn(owners, owner, OUTBOX.first_due(prefix .. 'due:' .. owner))
  return false
end

local function look_again_at(time)
  wait_ms = math.min(wait_ms or math.huge, math.max(0, time - now))
end

local is_progress = true
while is_progress and #claimed < limit and budget > 0 do
  is_progress = false
  for _, owner in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', now + 1, 'LIMIT', 0, 1000)) do
    if #claimed == limit or budget <= 0 then
      break
    elseif OUTBOX.num_in_flight(prefix, owner, now) < 2 * (limit - #claimed) then
      is_progress = serve(owner) or is_progress
    else
      look_again_at(OUTBOX.first_due(prefix .. 'flying:' .. owner))
    end
  end
end
if #claimed == limit or budget <= 0 then
  look_again_at(now)
else
  local next_due = redis.call('ZRANGEBYSCORE', owners, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
  if next_due then
    look_again_at(tonumber(next_due))
  end
end
return { wait_ms or -1, claimed }
