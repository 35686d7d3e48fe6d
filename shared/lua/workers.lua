-- KEYS: index of workers    ARGV: prefix of worker records, prefix of the last known models, prefix of the places
--                                 in line, backends...
-- Returns {{worker records}, {capabilities or '' per backend}, {queued per backend}}.
local records, models, queued = {}, {}, {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = redis.call('GET', ARGV[1] .. name)
  if record then
    records[#records + 1] = record
  end
end
for i = 4, #ARGV do
  models[#models + 1] = redis.call('GET', ARGV[2] .. ARGV[i]) or ''
  queued[#queued + 1] = redis.call('ZCARD', ARGV[3] .. ARGV[i])
end
return {records, models, queued}
