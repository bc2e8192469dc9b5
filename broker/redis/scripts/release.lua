-- include: now thread
-- Let a run go that was held behind another one of its thread: from now on its queue time counts.
--
-- KEYS  1 run  2 leases  3 open runs of the thread
-- ARGV  1 run id  2 queue time-out in ms
-- Reply its agent, to enqueue it; nil when it is not held, or not the oldest of its thread

local stored = redis.call('HMGET', KEYS[1], 'held', 'agent')
if not stored[1] or oldest(KEYS[3], KEYS[1], ARGV[1]) ~= ARGV[1] then
  return false
end
redis.call('HDEL', KEYS[1], 'held')
redis.call('ZADD', KEYS[2], now() + ARGV[2] / 10, ARGV[1])
return stored[2]
