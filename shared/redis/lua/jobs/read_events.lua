-- KEYS: events, record    ARGV: the last id the reader has ('' for none)
-- Returns {{id, {'type', type, 'data', data}}, ...}, oldest first. That the job was queued is in its record (see create).
local last = ARGV[1]
local rows = redis.call('XRANGE', KEYS[1], last == '' and '-' or '(' .. last, '+')
local held = redis.call('HMGET', KEYS[2], 'queued', 'state')
local is_new = held[1] and (last == '' or tonumber(string.match(last, '^%d+')) < tonumber(string.match(held[1], '^%d+')))
if is_new and (#rows > 0 or held[2] == 'queued') then
  table.insert(rows, 1, { held[1], { 'type', 'state', 'data', 'queued' } })
end
return rows
