-- What should be with the broker and what is.
-- KEYS: index of queued jobs, every broker list
-- Returns {{ids of queued jobs}, {messages}}.
local messages = {}
for i = 2, #KEYS do
  for _, message in ipairs(redis.call('LRANGE', KEYS[i], 0, -1)) do
    messages[#messages + 1] = message
  end
end
return {redis.call('ZRANGE', KEYS[1], 0, -1), messages}
