-- Accept a job: its record, its place in line and its message to the workers, all or nothing.
-- KEYS: record, events, index of queued jobs, place in line, broker list, repeat, deadlines,
--       the owner's jobs that have not ended, then every index it appears in
-- ARGV: id, channel, doc, backend, label, broker message, priority rank, expected duration in ms,
--       most queued jobs, most of this backend,
--       what a repeat does ('new', 'same', 'again' or 'unsure'), hash of the request, lifetime of the repeat in ms,
--       prefix of the records, the moment by which it must have started in ms ('' for none),
--       owner ('' for none), most jobs of the owner that have not ended (0 for no limit),
--       who is told of it ('' for nobody), and of which events, where counts are kept, what is counted, how much,
--       when the caller is told that there is no answer, in ms ('' for never)
-- Returns {outcome, id}: 'created', 'known' (the job that an earlier request made), 'mismatch', 'full' or 'crowded'.
-- include unsure
local id, channel, mode = ARGV[1], ARGV[2], ARGV[11]
-- Sent twice over a connection that broke: the first one was heard.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {'created', id}
end
local late = UNSURE.is_late(ARGV[23])
if mode == 'unsure' then
  local known = UNSURE.take(KEYS[6], ARGV[14], ARGV[13], late)
  if known then
    return {'known', known}
  end
elseif mode ~= 'new' then
  local known = redis.call('HMGET', KEYS[6], 'id', 'hash')
  if known[1] then
    local state = redis.call('HGET', ARGV[14] .. known[1], 'state')
    if mode == 'same' and known[2] ~= ARGV[12] then
      return {'mismatch', known[1]}
    elseif state and (mode == 'same' or (state ~= 'failed' and state ~= 'cancelled')) then
      return {'known', known[1]}
    end
  end
end
if redis.call('ZCARD', KEYS[3]) >= tonumber(ARGV[9]) or redis.call('ZCARD', KEYS[4]) >= tonumber(ARGV[10]) then
  return {'full', ''}
end
local owner, most = ARGV[16], tonumber(ARGV[17])
if owner ~= '' then
  if most > 0 and redis.call('SCARD', KEYS[8]) >= most then
    return {'crowded', ''}
  end
  redis.call('SADD', KEYS[8], id)
  redis.call('HSET', KEYS[1], 'owner', owner)
end
redis.call('HSET', KEYS[1], 'doc', ARGV[3], 'state', 'queued', 'attempt', 0, 'backend', ARGV[4], 'label', ARGV[5],
  'expected', ARGV[8])
redis.call('ZADD', KEYS[4], ARGV[7], id)
for i = 9, #KEYS do
  redis.call('ZADD', KEYS[i], 0, id)
end
redis.call('ZADD', KEYS[3], 0, id)
redis.call('LPUSH', KEYS[5], ARGV[6])
if mode == 'unsure' then
  if late then
    UNSURE.leave(KEYS[6], id, ARGV[13])
  end
elseif ARGV[13] ~= '' then
  redis.call('HSET', KEYS[6], 'id', id, 'hash', ARGV[12])
  redis.call('PEXPIRE', KEYS[6], ARGV[13])
end
if ARGV[15] ~= '' then
  redis.call('ZADD', KEYS[7], ARGV[15], id)
end
if ARGV[18] ~= '' then
  redis.call('HSET', KEYS[1], 'receiver', ARGV[18], 'wanted', ARGV[19])
end
redis.call('HINCRBY', ARGV[20], ARGV[21], ARGV[22])
local event = redis.call('XADD', KEYS[2], '*', 'type', 'state', 'data', 'queued')
redis.call('PUBLISH', channel, id .. ' ' .. event .. ' state queued')
return {'created', id}
