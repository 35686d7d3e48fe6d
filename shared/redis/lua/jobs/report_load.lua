-- Tell the followers of a queued job that its model is being loaded. Nothing is stored: the worker's record has it too.
-- KEYS: record
-- ARGV: id, event channel, progress as JSON
-- Returns 1, or 0 for a job that is not queued.
local record = KEYS[1]
local id, channel, load = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', record, 'state') ~= 'queued' then
  return 0
end
redis.call('PUBLISH', channel, id .. ' - loading ' .. load)
return 1
