-- Delete the record, the events and the index entries of a finished job.
-- KEYS: record, events, index of all jobs, indexes by origin
-- ARGV: id; prefixes of the indexes by state, backend, label and owner; '1' for a dry run
-- Returns 1, or 0 when the job has not ended, is pinned or is unknown.
local record, events = KEYS[1], KEYS[2]
local id, state_prefix, backend_prefix = ARGV[1], ARGV[2], ARGV[3]
local label_prefix, owner_prefix, is_dry_run = ARGV[4], ARGV[5], ARGV[6] ~= ''

local fields = redis.call('HMGET', record, 'state', 'backend', 'label', 'pinned', 'owner')
local state, backend, label, pinned, owner = fields[1], fields[2], fields[3] or '', fields[4], fields[5]
if not state or state == 'queued' or state == 'running' or pinned then
  return 0
end
if is_dry_run then
  return 1
end
redis.call('DEL', record, events)
for i = 3, #KEYS do
  redis.call('ZREM', KEYS[i], id)
end
redis.call('ZREM', state_prefix .. state, id)
redis.call('ZREM', backend_prefix .. backend, id)
if label ~= '' then
  redis.call('ZREM', label_prefix .. label, id)
end
if owner then
  redis.call('ZREM', owner_prefix .. owner, id)
  redis.call('ZREM', owner_prefix .. owner .. ':label:' .. label, id)
end
return 1
