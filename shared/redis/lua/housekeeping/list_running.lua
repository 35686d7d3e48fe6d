-- List the jobs that run on a worker, by their records.
-- KEYS: index of running jobs
-- ARGV: prefix of records, worker
-- Returns their docs.
local running_index = KEYS[1]
local record_prefix, worker = ARGV[1], ARGV[2]

local docs = {}
for _, id in ipairs(redis.call('ZRANGE', running_index, 0, -1)) do
  local fields = redis.call('HMGET', record_prefix .. id, 'worker', 'doc')
  if fields[1] == worker then
    docs[#docs + 1] = fields[2]
  end
end
return docs
