-- Count what somebody asks for (GCRA): one timestamp each, until which its share is used up.
-- KEYS: that timestamp
-- ARGV: microseconds that a unit uses up, microseconds that may be used up ahead of time, units that are needed now,
-- units to take beyond that where there is room
-- Returns the units taken, or the error 'RATE <milliseconds to wait>' for one too many.
local cost, ahead, needed, spare = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local clock = redis.call('TIME')
local us = clock[1] * 1000000 + clock[2]
local used = math.max(tonumber(redis.call('GET', KEYS[1]) or 0), us)
if used - us > ahead then
  return redis.error_reply('RATE ' .. math.ceil((used - us - ahead) / 1000))
end
-- What is needed may go beyond the share, and is waited for afterwards: otherwise nobody could ask for what costs more.
local room = math.floor((ahead - (used - us)) / cost) + 1 - needed
local taken = needed + math.max(0, math.min(room, spare))
used = used + taken * cost
redis.call('SET', KEYS[1], string.format('%.0f', used), 'PX', math.ceil((used - us) / 1000))
return taken
