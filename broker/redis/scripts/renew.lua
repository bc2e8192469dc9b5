-- include: now
-- Renew a worker's lease on a run. A run that is to stop is not renewed beyond its stop deadline.
--
-- KEYS  1 run  2 leases  3 log  4 text  5 open runs of the owner  6 open runs of the channel
--       7 open runs of the thread: what must not be gone as long as the run is open
-- ARGV  1 run id  2 fence  3 lease in ms  4 ttl in seconds with a tenth on top
-- Reply "OK" | "STOP" (go on and end it) | "FENCED" (somebody else's now) | "GONE" (ended or expired)

local stored = redis.call('HMGET', KEYS[1], 'fence', 'state', 'stop')
if not stored[1] or stored[2] == 'completed' then
  return 'GONE'
end
if stored[1] ~= ARGV[2] then
  return 'FENCED'
end
redis.call('EXPIRE', KEYS[1], ARGV[4])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('EXPIRE', KEYS[3], ARGV[4])
redis.call('EXPIRE', KEYS[4], ARGV[4])
redis.call('EXPIRE', KEYS[5], ARGV[4])
redis.call('EXPIRE', KEYS[6], ARGV[4])
redis.call('EXPIRE', KEYS[7], ARGV[4])
local deadline = now() + ARGV[3]
if stored[3] then
  redis.call('ZADD', KEYS[2], math.min(deadline, tonumber(stored[3])), ARGV[1])
  return 'STOP'
end
redis.call('ZADD', KEYS[2], deadline, ARGV[1])
return 'OK'
