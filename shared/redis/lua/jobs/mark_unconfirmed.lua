-- Leave a job to the same request when that comes again, if there is such a job.
-- KEYS: record, jobs left to repetitions of the request    ARGV: id, lifetime in ms
-- include jobs/unconfirmed
if redis.call('EXISTS', KEYS[1]) == 1 then
  UNSURE.leave(KEYS[2], ARGV[1], ARGV[2])
end
return 1
