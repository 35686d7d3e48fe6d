-- Read the jobs that a worker is to start next: one, and those of the same model behind it, which may fit into its batch.
--
-- Workers prefer jobs whose model they have in memory. Priorities come first, and jobs of one model keep their order. A
-- job that is passed over for this is noted with the time, and starts next after `bound_ms`. A job whose model only
-- others have, or are loading, is left to them, unless the jobs of that model need longer than loading it once more.
--
-- KEYS: queue, models in the memory of workers by worker, load stats
-- ARGV: prefix of records, most jobs to return, worker, `bound_ms` (0 keeps the order of the queue), lifetime of a
--       worker's entry in ms, backend, its default model, number of models in memory, those models ('' stands for the default
--       one), then ids of jobs and names of models to leave out
-- Returns {'1' if all jobs are left to other workers, else '', doc, provider tasks or '', expected duration in ms, ...}.
-- include limits/full_server
-- include queue/affinity
-- include commands/now
local queue, residency, load_stats = KEYS[1], KEYS[2], KEYS[3]
local record_prefix, limit, worker, bound_ms = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local lifetime_ms, backend, default_model = tonumber(ARGV[5]), ARGV[6], ARGV[7]
local num_loaded, first_loaded = tonumber(ARGV[8]), 9

local loaded, is_tried = {}, {}
for i = first_loaded, first_loaded + num_loaded - 1 do
  loaded[ARGV[i]] = true
end
for i = first_loaded + num_loaded, #ARGV do
  is_tried[ARGV[i]] = true
end

local window = AFFINITY.window(queue, record_prefix, default_model, is_tried)
local first = window.get(1)
if not first then
  return { '' }
end
local chosen
if bound_ms == 0 then
  chosen = first
else
  chosen = AFFINITY.due(window, queue, now - bound_ms)
    or (loaded[first.model] and first)
    or AFFINITY.choose(window, loaded, AFFINITY.others(residency, backend, worker, now - lifetime_ms), load_stats)
  AFFINITY.note_passed(window, queue, chosen, now)
end
if not chosen then
  AFFINITY.note_load(residency, backend, worker, '', now)
  return { '1' }
end
AFFINITY.note_load(residency, backend, worker, loaded[chosen.model] and '' or chosen.model, now)

local rows = { '' }
local function add(entry)
  local fields = redis.call('HMGET', record_prefix .. entry.id, 'doc', 'providers', 'expected')
  rows[#rows + 1] = fields[1]
  rows[#rows + 1] = fields[2] or ''
  rows[#rows + 1] = fields[3] or '0'
end
local entry, i, num_found = chosen, chosen.position, 0
while entry and num_found < limit do
  if entry.model == chosen.model then
    add(entry)
    num_found = num_found + 1
  end
  i = i + 1
  entry = window.get(i)
end
return rows
