-- include: now append
-- Ask a run to stop, and show it in the channel. Idempotent; the first request sets the deadline by which it
-- must have ended.
--
-- KEYS  1 run  2 leases  3 log  4 live
-- ARGV  1 run id  2 owner token  3 time to end in ms  4 body of the echo
--       5 random step of the echo's id, 1 or more
--       6 "<any number> <log length> <ttl in seconds with a tenth on top>"
-- Reply {state, worker or ""}
-- Error RUN_NOT_FOUND (also when it is somebody else's)

local run, log, limits = KEYS[1], KEYS[3], ARGV[6]
local stored = redis.call('HMGET', run, 'owner', 'state', 'worker', 'stop', 'log', 'head')
if stored[1] ~= ARGV[2] or stored[5] ~= log then
  return redis.error_reply('RUN_NOT_FOUND ' .. ARGV[1])
end
if stored[2] ~= 'completed' and not stored[4] then
  local deadline = now() + ARGV[3]
  redis.call('HSET', run, 'stop', deadline)
  redis.call('ZADD', KEYS[2], 'LT', deadline, ARGV[1])
  append(log, KEYS[4], stored[6], 0, 'stop_requested\n' .. ARGV[4], ARGV[5], limits, true)
  redis.call('EXPIRE', log, string.match(limits, '%d+$'))
end
return {stored[2], stored[3] or ''}
