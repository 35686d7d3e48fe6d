-- KEYS: events    ARGV: the last id the reader has ('' for none)
-- Returns {{id, {'type', type, 'data', data}}, ...}, oldest first.
local from = '-'
if ARGV[1] ~= '' then
  from = '(' .. ARGV[1]
end
return redis.call('XRANGE', KEYS[1], from, '+')
