-- Ask workers to do something with a model.
-- KEYS: commands of each worker
-- ARGV: command as JSON, most commands that wait, lifetime in ms
-- Returns how many workers were asked.
local command, max_commands, lifetime_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3]

for _, commands in ipairs(KEYS) do
  redis.call('RPUSH', commands, command)
  redis.call('LTRIM', commands, -max_commands, -1)
  redis.call('PEXPIRE', commands, lifetime_ms)
end
return #KEYS
