-- include: bucket
-- Take a tenant's share of one message: a token, and a place for its run. Both or nothing; nothing when the
-- run has a place already, as after a lost reply.
--
-- KEYS  1 bucket of messages  2 open runs of the tenant, by when they began
-- ARGV  1 capacity of the bucket, "" when there is no such limit  2 microseconds for each of its tokens
--       3 most open runs, "" when there is no such limit  4 the run's word
--       5 ttl in seconds with a tenth on top; a run that began before that is not counted any more
-- Reply "OK"
-- Error LIMIT_REACHED messages_per_minute MS  LIMIT_REACHED runs

if ARGV[3] ~= '' and redis.call('ZSCORE', KEYS[2], ARGV[4]) then
  return 'OK'
end
local at, value = micros(), nil
if ARGV[1] ~= '' then
  local wait
  wait, value = look(KEYS[1], ARGV[1] + 0, ARGV[2] + 0, at)
  if wait > 0 then
    return redis.error_reply('LIMIT_REACHED messages_per_minute ' .. wait)
  end
end
if ARGV[3] ~= '' then
  local ms = math.floor(at / 1000)
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', ms - ARGV[5] * 1000)
  if redis.call('ZCARD', KEYS[2]) >= ARGV[3] + 0 then
    return redis.error_reply('LIMIT_REACHED runs')
  end
  redis.call('ZADD', KEYS[2], ms, ARGV[4])
  redis.call('EXPIRE', KEYS[2], ARGV[5])
end
if value then
  spend(KEYS[1], value, at)
end
return 'OK'
