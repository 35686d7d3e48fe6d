-- Accept a job: its record, its place in the queue and a wake-up for a worker, all or nothing.
-- KEYS: record, index of queued jobs, queue, shares, wake-ups, repeat, deadlines,
--       the owner's jobs that have not ended, counts, then every index it appears in
-- Returns {outcome, id}: 'duplicate' (the job that an earlier request made), 'mismatch', 'queue-full' or 'owner-limit'; or
-- {'created', id, number of jobs before it, their expected durations together in ms}.
-- A client that lost the answer may ask again: the job is then there, and was created.
-- include queue/fair_queue
-- include jobs/unconfirmed
local record, queued, repeated, deadlines, active, counts = KEYS[1], KEYS[2], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local q = { queue = KEYS[3], shares = KEYS[4], wake_ups = KEYS[5] }
local first_index = 10
local id, channel, doc, backend, label, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local rank, images, expected_ms, wake_up = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]
local most_queued, most_of_backend, most_of_owner = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
-- 'create', 'return', 'return-unless-failed' or 'return-unconfirmed'; see OnDuplicate.
local on_duplicate, request_hash, lifetime_ms, record_prefix = ARGV[14], ARGV[15], ARGV[16], ARGV[17]
-- The moment by which it must have started in ms, '' for none; who is told of it, '' for nobody, and of which events.
local deadline_ms, receiver, wanted = ARGV[18], ARGV[19], ARGV[20]
-- When the caller is told that there is no answer, in ms, '' for never.
local counted, increment, latest_ms = ARGV[21], ARGV[22], ARGV[23]

if redis.call('EXISTS', record) == 1 then
  return {'created', id, QUEUE.position(q.queue, record_prefix, id)}
end
local late = UNSURE.is_late(latest_ms)
if on_duplicate == 'return-unconfirmed' then
  local known = UNSURE.take(repeated, record_prefix, lifetime_ms, late, id)
  if known then
    return {'duplicate', known}
  end
elseif on_duplicate ~= 'create' then
  local known = redis.call('HMGET', repeated, 'id', 'hash')
  if known[1] then
    local state = redis.call('HGET', record_prefix .. known[1], 'state')
    if on_duplicate == 'return' and known[2] ~= request_hash then
      return {'mismatch', known[1]}
    elseif state and (on_duplicate == 'return' or (state ~= 'failed' and state ~= 'cancelled')) then
      return {'duplicate', known[1]}
    end
  end
end
if redis.call('ZCARD', queued) >= most_queued or redis.call('ZCARD', q.queue) >= most_of_backend then
  return {'queue-full', ''}
end
if owner ~= '' then
  if most_of_owner > 0 and redis.call('SCARD', active) >= most_of_owner then
    return {'owner-limit', ''}
  end
  redis.call('SADD', active, id)
  redis.call('HSET', record, 'owner', owner)
end
local now = redis.call('TIME')
-- The first event is in the record: a stream of its own would be most of what a queued job takes.
local event = now[1] * 1000 + math.floor(now[2] / 1000) .. '-0'
redis.call('HSET', record, 'doc', doc, 'state', 'queued', 'attempt', 0, 'backend', backend, 'label', label,
  'expected', expected_ms, 'queued', event)
for i = first_index, #KEYS do
  redis.call('ZADD', KEYS[i], 0, id)
end
redis.call('ZADD', queued, 0, id)
QUEUE.push(q, id, rank, owner, images)
QUEUE.wake(q, wake_up)
if on_duplicate == 'return-unconfirmed' then
  if late then
    UNSURE.leave(repeated, id, lifetime_ms)
  end
elseif lifetime_ms ~= '' then
  redis.call('HSET', repeated, 'id', id, 'hash', request_hash)
  redis.call('PEXPIRE', repeated, lifetime_ms)
end
if deadline_ms ~= '' then
  redis.call('ZADD', deadlines, deadline_ms, id)
end
if receiver ~= '' then
  redis.call('HSET', record, 'receiver', receiver, 'wanted', wanted)
end
redis.call('HINCRBY', counts, counted, increment)
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' state queued')
return {'created', id, QUEUE.position(q.queue, record_prefix, id)}
