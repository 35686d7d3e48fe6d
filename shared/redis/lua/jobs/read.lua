-- KEYS: record    ARGV: id, prefix of the queues, prefix of the records, whose it must be ('*' for anyone's)
-- Returns {doc, progress or '', number of jobs before it or -1, their expected durations together in ms, pinned or '',
-- tasks with a provider or '', what became of its webhooks or ''}, or nothing.
-- include queue/fair_queue
local id, queues, records, owner = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local held = redis.call('HMGET', KEYS[1], 'doc', 'progress', 'backend', 'pinned', 'providers', 'owner', 'deliveries')
if not held[1] or (owner ~= '*' and held[6] ~= owner) then
  return nil
end
local before, wait_ms = QUEUE.position(queues .. held[3], records, id)
return {held[1], held[2] or '', before, wait_ms, held[4] or '', held[5] or '', held[7] or ''}
