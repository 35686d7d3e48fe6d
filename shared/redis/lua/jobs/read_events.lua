-- Read the events of a job. The first one, that it was queued, is in its record (see create.lua).
-- KEYS: events, record
-- ARGV: id of the last event that the reader has ('' for none)
-- Returns {{id, {'type', type, 'data', data}}, ...}, oldest first.
local events, record = KEYS[1], KEYS[2]
local last_id = ARGV[1]

local rows = redis.call('XRANGE', events, last_id == '' and '-' or '(' .. last_id, '+')
local fields = redis.call('HMGET', record, 'queued', 'state')
local queued_id, state = fields[1], fields[2]
local is_unread = queued_id
  and (last_id == '' or tonumber(string.match(last_id, '^%d+')) < tonumber(string.match(queued_id, '^%d+')))
if is_unread and (#rows > 0 or state == 'queued') then
  table.insert(rows, 1, { queued_id, { 'type', 'state', 'data', 'queued' } })
end
return rows
