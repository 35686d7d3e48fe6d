-- Tell whether a worker of another machine has a model.
-- KEYS: sources of the backend
-- ARGV: model, source of the asking worker, prefix of the entries of a source, how long a source counts after its last
--       publication, in ms
-- Returns 1 or 0.
-- include commands/now
local sources = KEYS[1]
local model, own_source, entries_prefix, lifetime_ms = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local oldest = now - lifetime_ms
local flat = redis.call('HGETALL', sources)
for i = 1, #flat, 2 do
  local published_at = tonumber(string.match(flat[i + 1], ' (%d+)$'))
  if flat[i] ~= own_source and published_at >= oldest then
    local entry = redis.call('HGET', entries_prefix .. flat[i], model)
    -- States are left out while they are the usual one, available.
    if entry and not cjson.decode(entry).state then
      return 1
    end
  end
end
return 0
