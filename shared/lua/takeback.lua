-- Take back the messages of jobs that were started without them. They are near the end that workers take from; one that
-- is further away stays, and does nothing when its turn comes.
-- KEYS: broker lists    ARGV: how many messages to look at in each, then the ids
-- Returns how many were taken back.
local wanted, count = {}, 0
for i = 2, #ARGV do
  wanted[ARGV[i]] = true
end
for _, key in ipairs(KEYS) do
  for _, message in ipairs(redis.call('LRANGE', key, -ARGV[1], -1)) do
    if wanted[cjson.decode(message).headers.id] then
      count = count + redis.call('LREM', key, -1, message)
    end
  end
end
return count
