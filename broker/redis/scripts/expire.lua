-- include: now thread
-- Decide over a run whose deadline has passed. Whoever acts on the answer holds the fence.
--
-- KEYS  1 run  2 leases  3 open runs of the channel  4 open runs of the thread  5 open runs of the owner
-- ARGV  1 run id  2 who asks  3 time to act in ms  4 queue time-out in ms
--       5 "force" to take an unclaimed run over at once (a stop before it started); "spare" to give a
--         claimed run that nobody stopped one more lease: its worker may have had no way to renew it; else ""
--       6 ttl in seconds with a tenth on top  7 random step of the fence, 1 or more
-- Reply {"NOTHING"}                  not due any more, or gone
--       {"ENQUEUE", agent}           lost worker and attempts left; held and now first; or waiting for
--                                    long enough that its queue entry may have been lost
--       {"END", status, code, hash}  taken over: write the terminal event with the new fence

local run, id = KEYS[1], ARGV[1]
local stored = redis.call('HMGET', run, 'state', 'worker', 'stop', 'attempt', 'retries', 'held', 'agent', 'again')
local state, worker, stop, held, again = stored[1], stored[2], stored[3], stored[6], stored[8]
if not state or state == 'completed' then
  redis.call('ZREM', KEYS[2], id)
  redis.call('SREM', KEYS[3], id)
  redis.call('LREM', KEYS[4], 0, id)
  redis.call('ZREM', KEYS[5], id)
  return {'NOTHING'}
end
local at = now()
if ARGV[5] == 'force' then
  if worker then
    return {'NOTHING'}
  end
else
  local deadline = redis.call('ZSCORE', KEYS[2], id)
  if not deadline or tonumber(deadline) > at then
    return {'NOTHING'}
  end
end

local function take_over(status, code)
  redis.call('HINCRBY', run, 'fence', ARGV[7])
  redis.call('HSET', run, 'worker', ARGV[2])
  redis.call('ZADD', KEYS[2], at + ARGV[3], id)
  return {'END', status, code, redis.call('HGETALL', run)}
end

if stop then
  return take_over('cancelled', 'stopped')
end
if ARGV[5] == 'spare' and worker then
  redis.call('ZADD', KEYS[2], at + ARGV[3], id)
  return {'NOTHING'}
end
if worker then
  if tonumber(stored[4]) <= tonumber(stored[5] or 0) then
    redis.call('HINCRBY', run, 'fence', ARGV[7])
    redis.call('HDEL', run, 'worker', 'again')
    redis.call('HSET', run, 'state', 'queued')
    redis.call('ZADD', KEYS[5], 'XX', 0, id)
    for _, field in ipairs(redis.call('HKEYS', run)) do
      if string.sub(field, 1, 5) == 'call:' then
        redis.call('HDEL', run, field)
      end
    end
    redis.call('ZADD', KEYS[2], at + ARGV[4] / 10, id)
    return {'ENQUEUE', stored[7]}
  end
  return take_over('abandoned', 'worker_lost')
end
if held then
  redis.call('EXPIRE', run, ARGV[6])
  redis.call('EXPIRE', KEYS[3], ARGV[6])
  redis.call('EXPIRE', KEYS[4], ARGV[6])
  redis.call('EXPIRE', KEYS[5], ARGV[6])
  redis.call('ZADD', KEYS[2], at + ARGV[4] / 10, id)
  if oldest(KEYS[4], run, id) ~= id then
    return {'NOTHING'}
  end
  redis.call('HDEL', run, 'held')
  return {'ENQUEUE', stored[7]}
end
if not again then
  redis.call('HSET', run, 'again', 1)
  redis.call('ZADD', KEYS[2], at + ARGV[4] * 9 / 10, id)
  return {'ENQUEUE', stored[7]}
end
return take_over('abandoned', 'queue_timeout')
