-- KEYS: record    ARGV: id, prefix of the places in line, prefix of the records, whose it must be ('*' for anyone's)
-- Returns {doc, progress or '', number of jobs before it or -1, their expected durations together in ms, pinned or '',
-- tasks with a provider or '', what became of its webhooks or ''}, or nothing. The sum is taken over the first 200 and scaled up, so that reading stays cheap in a long line.
local held = redis.call('HMGET', KEYS[1], 'doc', 'progress', 'backend', 'pinned', 'providers', 'owner', 'deliveries')
if not held[1] or (ARGV[4] ~= '*' and held[6] ~= ARGV[4]) then
  return nil
end
local line = ARGV[2] .. held[3]
local before = redis.call('ZRANK', line, ARGV[1]) or -1
local wait = 0
if before > 0 then
  local ids = redis.call('ZRANGE', line, 0, math.min(before, 200) - 1)
  for _, id in ipairs(ids) do
    wait = wait + tonumber(redis.call('HGET', ARGV[3] .. id, 'expected') or 0)
  end
  wait = math.floor(wait * before / #ids)
end
return {held[1], held[2] or '', before, wait, held[4] or '', held[5] or '', held[7] or ''}
