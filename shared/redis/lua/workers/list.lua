-- KEYS: index of workers    ARGV: prefixes of: worker records, last known models, places in line, paces, failures;
--                                 then the backends
-- Returns {{worker records}, {capabilities or '' per backend}, {queued per backend}, {pace per backend, as a flat list},
--          {why its last worker failed, or '', per backend}, ms by the server's clock}.
local records, models, queued, paces, failures = {}, {}, {}, {}, {}
for _, name in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  local record = redis.call('GET', ARGV[1] .. name)
  if record then
    records[#records + 1] = record
  end
end
for i = 6, #ARGV do
  models[#models + 1] = redis.call('GET', ARGV[2] .. ARGV[i]) or ''
  queued[#queued + 1] = redis.call('ZCARD', ARGV[3] .. ARGV[i])
  paces[#paces + 1] = redis.call('HGETALL', ARGV[4] .. ARGV[i])
  failures[#failures + 1] = redis.call('HGET', ARGV[5] .. ARGV[i], 'reason') or ''
end
local now = redis.call('TIME')
return {records, models, queued, paces, failures, now[1] * 1000 + math.floor(now[2] / 1000)}
