-- KEYS: index of all jobs    ARGV: the first id that is too young, ids already looked at up to ('' for none), most to return
local from = '-'
if ARGV[2] ~= '' then
  from = '(' .. ARGV[2]
end
return redis.call('ZRANGE', KEYS[1], from, '(' .. ARGV[1], 'BYLEX', 'LIMIT', 0, ARGV[3])
