-- Read a job.
-- KEYS: record
-- ARGV: id, prefix of queues, prefix of records, required owner ('*' for any)
-- Returns {doc, progress or '', position in its queue or -1, expected duration of the jobs ahead in ms, pinned or '',
-- provider tasks or '', webhook deliveries or '', models of the jobs ahead}, or nil.
-- include queue/fair_queue
local record = KEYS[1]
local id, queue_prefix, record_prefix, required_owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local fields = redis.call('HMGET', record, 'doc', 'progress', 'backend', 'pinned', 'providers', 'owner', 'deliveries')
local doc, progress, backend, pinned, providers, owner, deliveries = unpack(fields)
if not doc or (required_owner ~= '*' and owner ~= required_owner) then
  return nil
end
local position, work_ahead_ms, models = QUEUE.position(queue_prefix .. backend, record_prefix, id)
return { doc, progress or '', position, work_ahead_ms, pinned or '', providers or '', deliveries or '', models }
