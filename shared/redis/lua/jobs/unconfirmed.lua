-- Included by scripts. Unconfirmed jobs were accepted while their callers were told that the store does not answer. The
-- next identical request gets such a job, once; two requests that both got no answer get two.
local UNCONFIRMED = {}

function UNCONFIRMED.add(list, id, lifetime_ms)
  redis.call('LREM', list, 0, id)
  redis.call('RPUSH', list, id)
  redis.call('PEXPIRE', list, lifetime_ms)
end

-- The first unconfirmed job that neither failed nor was cancelled, or nil. `new_id` is the id of the job that the request
-- would create: when this answer is lost as well, the repeated request gets the same job. `is_late` says that the caller
-- has stopped waiting for this answer.
function UNCONFIRMED.take(list, record_prefix, lifetime_ms, is_late, new_id)
  local answer = list .. ':' .. new_id
  local known = redis.call('GET', answer)
  if known then
    return known
  end
  for index, id in ipairs(redis.call('LRANGE', list, 0, -1)) do
    local state = redis.call('HGET', record_prefix .. id, 'state')
    if state and state ~= 'failed' and state ~= 'cancelled' then
      -- Nothing is removed before: after such a write, a full server would accept the new job.
      redis.call('LTRIM', list, index, -1)
      if is_late then
        UNCONFIRMED.add(list, id, lifetime_ms)
      end
      redis.call('SET', answer, id, 'PX', lifetime_ms)
      return id
    end
  end
end
