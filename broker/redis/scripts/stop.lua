-- include: append
-- Ask a run to stop. Idempotent; the first request sets the deadline by which it must have ended.
--
-- KEYS  1 run  2 leases
-- ARGV  1 run id  2 owner token  3 time to end in ms
-- Reply {state, worker or ""}
-- Error RUN_NOT_FOUND (also when it is somebody else's)

local stored = redis.call('HMGET', KEYS[1], 'owner', 'state', 'worker', 'stop')
if stored[1] ~= ARGV[2] then
  return redis.error_reply('RUN_NOT_FOUND ' .. ARGV[1])
end
if stored[2] ~= 'completed' and not stored[4] then
  local deadline = now() + ARGV[3]
  redis.call('HSET', KEYS[1], 'stop', deadline)
  redis.call('ZADD', KEYS[2], 'LT', deadline, ARGV[1])
end
return {stored[2], stored[3] or ''}
