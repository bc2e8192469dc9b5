-- include: bucket
-- Give a tenant's share of one message back, because it began no run.
--
-- KEYS  1 bucket of messages  2 open runs of the tenant
-- ARGV  1 microseconds for each token of the bucket, "" when none was taken  2 the run's word
-- Reply "OK"

if ARGV[1] ~= '' then
  give_back(KEYS[1], ARGV[1] + 0, micros())
end
redis.call('ZREM', KEYS[2], ARGV[2])
return 'OK'
