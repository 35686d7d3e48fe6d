-- Jobs that were accepted while their callers were told that the store does not answer. The same request, when it comes
-- again, gets such a job, once; two requests that were both left unsure get two.
local UNSURE = {}

-- Whether whoever sent this has given up waiting for the answer. `latest` is in ms by the server's clock, '' for never.
function UNSURE.is_late(latest)
  local now = redis.call('TIME')
  return latest ~= '' and now[1] * 1000 + math.floor(now[2] / 1000) > tonumber(latest)
end

function UNSURE.leave(list, id, lifetime)
  redis.call('LREM', list, 0, id)
  redis.call('RPUSH', list, id)
  redis.call('PEXPIRE', list, lifetime)
end

-- The first such job that was not in vain, or nil. `asker` is the id that a new job would have: who asks again because
-- this answer was lost too gets the same one.
function UNSURE.take(list, records, lifetime, late, asker)
  local answered = list .. ':' .. asker
  local known = redis.call('GET', answered)
  if known then
    return known
  end
  local id = redis.call('LPOP', list)
  while id do
    local state = redis.call('HGET', records .. id, 'state')
    if state and state ~= 'failed' and state ~= 'cancelled' then
      if late then
        UNSURE.leave(list, id, lifetime)
      end
      redis.call('SET', answered, id, 'PX', lifetime)
      return id
    end
    id = redis.call('LPOP', list)
  end
end
