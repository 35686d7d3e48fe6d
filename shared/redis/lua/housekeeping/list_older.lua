-- List jobs below an id, oldest first.
-- KEYS: index of all jobs
-- ARGV: the id, id to begin after ('' for the oldest), most ids to return
-- Returns their ids.
local jobs = KEYS[1]
local limit_id, after, limit = ARGV[1], ARGV[2], ARGV[3]

local from = after == '' and '-' or '(' .. after
return redis.call('ZRANGE', jobs, from, '(' .. limit_id, 'BYLEX', 'LIMIT', 0, limit)
