-- Publish what one source (a machine's folders) knows of the models of a backend.
-- KEYS: sources of the backend, entries of this source by name, versions of those entries by name
-- ARGV: source, '1' if these are all its entries, number of entries, name and entry as JSON of each, then removed names
-- Returns the new version, or 0 if this source is unknown and has to publish all its entries.
-- include limits/full_server
-- include commands/now
-- A machine that publishes no more is forgotten after a month: containers have a new name at each start.
local LIFETIME_MS = 30 * 24 * 3600 * 1000
local sources, entries, versions = KEYS[1], KEYS[2], KEYS[3]
local source, is_complete, num_entries, first_entry = ARGV[1], ARGV[2] ~= '', tonumber(ARGV[3]), 4

local known = redis.call('HGET', sources, source)
if not known and not is_complete then
  return 0
end
local version = known and tonumber(string.match(known, '^%d+')) or 0
local next_version = version + 1
local published, is_changed = {}, false

local function remove(name)
  if redis.call('HDEL', entries, name) == 1 then
    redis.call('ZADD', versions, next_version, name)
    is_changed = true
  end
end

for i = first_entry, first_entry + 2 * num_entries - 1, 2 do
  local name, entry = ARGV[i], ARGV[i + 1]
  published[name] = true
  if redis.call('HGET', entries, name) ~= entry then
    redis.call('HSET', entries, name, entry)
    redis.call('ZADD', versions, next_version, name)
    is_changed = true
  end
end
for i = first_entry + 2 * num_entries, #ARGV do
  remove(ARGV[i])
end
if is_complete then
  for _, name in ipairs(redis.call('HKEYS', entries)) do
    if not published[name] then
      remove(name)
    end
  end
end
version = (is_changed or not known) and next_version or version
redis.call('HSET', sources, source, string.format('%d %d', version, now))
redis.call('PEXPIRE', entries, LIFETIME_MS)
redis.call('PEXPIRE', versions, LIFETIME_MS)
local flat = redis.call('HGETALL', sources)
for i = 1, #flat, 2 do
  if tonumber(string.match(flat[i + 1], ' (%d+)$')) < now - LIFETIME_MS then
    redis.call('HDEL', sources, flat[i])
  end
end
return version
