-- Read the entries of a source that changed after a version, in the order of their changes.
-- KEYS: entries by name, versions of the entries by name
-- ARGV: version and name of the last entry that the reader has, most entries to return
-- Returns {version, name, entry as JSON or '' if it was removed, ...}.
local entries, versions = KEYS[1], KEYS[2]
local after_version, after_name, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

local rows = {}
local names = redis.call('ZRANGE', versions, after_version, '+inf', 'BYSCORE', 'WITHSCORES')
for i = 1, #names, 2 do
  local name, version = names[i], names[i + 1]
  -- Entries of one version are in the order of their names.
  if (tonumber(version) > tonumber(after_version) or name > after_name) and #rows < 3 * limit then
    rows[#rows + 1] = version
    rows[#rows + 1] = name
    rows[#rows + 1] = redis.call('HGET', entries, name) or ''
  end
end
return rows
