-- include: now
-- A worker takes a queued run: next attempt, next fence, a lease, that of one to be stopped no longer than
-- until its stop deadline.
--
-- KEYS  1 run  2 leases  3 text
-- ARGV  1 run id  2 worker id  3 lease in ms  4 random step of the fence, 1 or more: of two claims on both
--       sides of a failover one does not hold, and they must not be taken for each other
-- Reply the run's hash after the claim (flat field, value list), or nil when there is nothing to claim:
--       unknown, ended, held behind another run, or taken by another worker already. A worker that
--       lost the reply may ask again: it gets the same claim

local run = KEYS[1]
local fields = redis.call('HMGET', run, 'state', 'worker', 'held', 'runs', 'stop')
if fields[1] ~= 'queued' or fields[3] then
  return false
end
if fields[2] == ARGV[2] then
  return redis.call('HGETALL', run)
end
if fields[2] then
  return false
end
redis.call('HSET', run, 'worker', ARGV[2])
redis.call('HINCRBY', run, 'fence', ARGV[4])
if redis.call('HINCRBY', run, 'attempt', 1) > 1 then
  redis.call('DEL', KEYS[3])
end
local deadline = now() + ARGV[3]
redis.call('ZADD', KEYS[2], math.min(deadline, tonumber(fields[5] or deadline)), ARGV[1])
if fields[4] then -- open runs of the owner, whom the caller does not know; in this slot like all of his
  redis.call('ZADD', fields[4], 'XX', 1, ARGV[1])
end
return redis.call('HGETALL', run)
