-- Accept a job: store its record, queue it and wake a worker, all or nothing.
-- KEYS: record, index of queued jobs, queue, shares, wake-ups, idempotency entry, deadlines, unfinished jobs of the owner,
--       counts, then every index that lists the job
-- ARGV: see the locals. Durations are in ms, points in time in ms by the server's clock; '' stands for none.
-- Returns {outcome, id}: 'duplicate' (the job of an earlier request), 'mismatch', 'queue-full' or 'owner-limit'; or
-- {'created', id, number of jobs ahead, their expected duration in ms, their models}.
-- A client that lost the answer may repeat the call: the job exists then, and 'created' is returned again.
-- include queue/fair_queue
-- include jobs/unconfirmed
-- include commands/now
local record, queued_index, idempotency, deadlines = KEYS[1], KEYS[2], KEYS[6], KEYS[7]
local unfinished, counts, first_index = KEYS[8], KEYS[9], 10
local q = { queue = KEYS[3], shares = KEYS[4], wake_ups = KEYS[5] }
local id, channel, doc, backend, label, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local rank, num_images, expected_ms, wake_up = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10]
local max_queued, max_per_backend, max_per_owner = tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
-- 'create', 'return', 'return-unless-failed' or 'return-unconfirmed' (see OnDuplicate).
local on_duplicate, request_hash, lifetime_ms, record_prefix = ARGV[14], ARGV[15], ARGV[16], ARGV[17]
-- Deadline for the start; origin of the webhook receiver and the events it wants.
local deadline, receiver, wanted_events = ARGV[18], ARGV[19], ARGV[20]
-- The caller stops waiting at `answer_by`. '' is the backend's default model.
local count_field, increment, answer_by, model = ARGV[21], ARGV[22], ARGV[23], ARGV[24]

if redis.call('EXISTS', record) == 1 then
  return { 'created', id, QUEUE.position(q.queue, record_prefix, id) }
end
local is_late = answer_by ~= '' and now > tonumber(answer_by)
-- Jobs of identical requests whose callers got an error before the end, or no response.
local unconfirmed = on_duplicate == 'return-unconfirmed' and idempotency or idempotency .. ':unconfirmed'
local may_return_unconfirmed = on_duplicate ~= 'return' and lifetime_ms ~= ''
if may_return_unconfirmed then
  local earlier_id = UNCONFIRMED.take(unconfirmed, record_prefix, lifetime_ms, is_late, id)
  if earlier_id then
    return { 'duplicate', earlier_id }
  end
end
if on_duplicate == 'return' or on_duplicate == 'return-unless-failed' then
  local earlier = redis.call('HMGET', idempotency, 'id', 'hash')
  local earlier_id, earlier_hash = earlier[1], earlier[2]
  if earlier_id then
    local state = redis.call('HGET', record_prefix .. earlier_id, 'state')
    if on_duplicate == 'return' and earlier_hash ~= request_hash then
      return { 'mismatch', earlier_id }
    elseif state and (on_duplicate == 'return' or (state ~= 'failed' and state ~= 'cancelled')) then
      return { 'duplicate', earlier_id }
    end
  end
end
if redis.call('ZCARD', queued_index) >= max_queued or redis.call('ZCARD', q.queue) >= max_per_backend then
  return { 'queue-full', '' }
end
if owner ~= '' then
  if max_per_owner > 0 and redis.call('SCARD', unfinished) >= max_per_owner then
    return { 'owner-limit', '' }
  end
  redis.call('SADD', unfinished, id)
end
-- The first event is in the record: a stream would be most of the memory of a queued job.
local event = now .. '-0'
local fields = { 'doc', doc, 'state', 'queued', 'attempt', 0, 'backend', backend, 'label', label, 'expected', expected_ms,
  'queued', event }
local function add_field(name, value)
  if value ~= '' then
    fields[#fields + 1] = name
    fields[#fields + 1] = value
  end
end
add_field('owner', owner)
add_field('model', model)
add_field('receiver', receiver)
add_field('wanted', wanted_events)
redis.call('HSET', record, unpack(fields))
for i = first_index, #KEYS do
  redis.call('ZADD', KEYS[i], 0, id)
end
redis.call('ZADD', queued_index, 0, id)
QUEUE.push(q, id, rank, owner, num_images)
QUEUE.wake(q, wake_up)
if may_return_unconfirmed then
  -- All of them have failed or were cancelled; the next request would read them again.
  redis.call('DEL', unconfirmed)
end
if on_duplicate == 'return-unconfirmed' then
  if is_late then
    UNCONFIRMED.add(idempotency, id, lifetime_ms)
  end
elseif lifetime_ms ~= '' then
  redis.call('HSET', idempotency, 'id', id, 'hash', request_hash)
  redis.call('PEXPIRE', idempotency, lifetime_ms)
end
if deadline ~= '' then
  redis.call('ZADD', deadlines, deadline, id)
end
redis.call('HINCRBY', counts, count_field, increment)
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' state queued')
return { 'created', id, QUEUE.position(q.queue, record_prefix, id) }
