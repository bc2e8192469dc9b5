-- include: now append thread bucket
-- Register a run: once per message id, within its owner's limits, with its place on the thread, its deadline
-- and the echo.
--
-- KEYS  1 run  2 message  3 log  4 live  5 open runs of the channel  6 leases  7 open runs of the thread
--       8 open runs of the owner: 0 waits for a worker, 1 has one  9 threads of the owner, by when they were
--       used last  10 bucket of messages  11 what webhooks want, if there are any
-- ARGV  1 run id            2 "1" when the message key counts, else "0"
--       3 on_busy: queue | reject | interrupt | parallel
--       4 ms until the sweeper first looks at it (a tenth of the queue time-out: by then its queue
--         entry may have been lost; or the lease, of a run that is claimed at once)
--       5 ttl in seconds with a tenth on top          6 log length
--       7 header words "<owner> <thread> <run>"       8 echo body, "" for none
--       9 worker that claims it at once, "" for none  10 random step of the echo's id, 1 or more
--       11 thread id
--       12 the owner's limits "<capacity of the bucket> <microseconds for each of its tokens> <open runs>
--         <of these waiting for a worker> <threads>"; "" for a run that no client begins: it only counts
--       13… field, value pairs of the run's hash
-- Reply {"NEW", "1" to enqueue | "0" held behind the thread's open run, open run ids…}
--       {"DUPLICATE", run id that the message began, ids of the open runs it is held behind…}
-- Error THREAD_BUSY  RUN_EXISTS
--       LIMIT_REACHED messages_per_minute MS | runs | queued_runs | threads MS   (MS: until it may be had)
-- The same again, of a message or of the worker that has it, registers nothing and costs nothing of the
-- limits, but it writes: so that a WAIT behind it, on whatever connection, covers the registration too.
-- Of a message with the same run id it is a retry, whose first reply was lost: that is given again.

local run, message, thread, runs, threads = KEYS[1], KEYS[2], KEYS[7], KEYS[8], KEYS[9]
local id, on_busy, ttl, worker = ARGV[1], ARGV[3], ARGV[5], ARGV[9]

local function reached(limit, ms)
  return redis.error_reply('LIMIT_REACHED ' .. limit .. (ms and string.format(' %.0f', ms) or ''))
end

local function has_ended(other)
  local state = redis.call('HGET', key_of(run, other), 'state')
  return not state or state == 'completed'
end

local function ahead_of(begun)
  local ahead = {}
  for _, other in ipairs(redis.call('LRANGE', thread, 0, -1)) do
    if other == begun then
      return ahead
    elseif is_there(run, id, other) then
      ahead[#ahead + 1] = other
    end
  end
  return {} -- on another thread
end

if ARGV[2] == '1' then
  local begun = redis.call('GET', message)
  if begun then
    redis.call('EXPIRE', message, ttl)
    redis.call('EXPIRE', key_of(run, begun), ttl)
    local held = redis.call('HGET', key_of(run, begun), 'held')
    local reply = {'DUPLICATE', begun}
    if begun == id then
      reply = {'NEW', held and '0' or '1'}
    end
    for _, other in ipairs(held and ahead_of(begun) or {}) do
      reply[#reply + 1] = other
    end
    return reply
  end
end
if redis.call('EXISTS', run) == 1 then
  if worker == '' or redis.call('HGET', run, 'worker') ~= worker then
    return redis.error_reply('RUN_EXISTS ' .. id)
  end
  redis.call('EXPIRE', run, ttl)
  return {'NEW', '1'}
end

local busy = {}
if on_busy ~= 'parallel' then
  for _, other in ipairs(redis.call('LRANGE', thread, 0, -1)) do
    if is_there(run, id, other) then
      busy[#busy + 1] = other
    else
      redis.call('LREM', thread, 0, other)
    end
  end
  if #busy > 0 and on_busy == 'reject' then
    return redis.error_reply('THREAD_BUSY ' .. busy[1])
  end
end

-- But for runs that are gone, nothing is taken away before the first thing is added: a Redis without memory
-- refuses that, and only when nothing was written before it.
local at, instant, tokens = now(), nil, nil
local kept_since = string.format('(%.0f', at - ttl * 1000)
if ARGV[12] ~= '' then
  local capacity, interval, most_runs, most_queued, most_threads =
    string.match(ARGV[12], '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
  local function crowded()
    if redis.call('ZCARD', runs) >= most_runs + 0 then
      return 'runs'
    end
    return redis.call('ZCOUNT', runs, 0, 0) >= most_queued + 0 and 'queued_runs'
  end
  if crowded() then
    for _, other in ipairs(redis.call('ZRANGE', runs, 0, -1)) do
      if has_ended(other) then -- it expired, or a failover lost it: nobody else takes it off
        redis.call('ZREM', runs, other)
      end
    end
    local full = crowded()
    if full then
      return reached(full)
    end
  end
  local used = tonumber(redis.call('ZSCORE', threads, ARGV[11]) or 0)
  if used <= at - ttl * 1000 and redis.call('ZCOUNT', threads, kept_since, '+inf') >= most_threads + 0 then
    local first = redis.call('ZRANGE', threads, kept_since, '+inf', 'BYSCORE', 'LIMIT', 0, 1, 'WITHSCORES')
    return reached('threads', (first[2] or at) - at + ttl * 1000)
  end
  local wait
  instant = micros()
  wait, tokens = look(KEYS[10], capacity + 0, interval + 0, instant)
  if wait > 0 then
    return reached('messages_per_minute', wait)
  end
end

local held, hooks = #busy > 0, redis.call('HGET', KEYS[11], 'events')
if tokens then
  spend(KEYS[10], tokens, instant)
end
redis.call('ZADD', runs, worker ~= '' and 1 or 0, id)
redis.call('EXPIRE', runs, ttl)
redis.call('ZREMRANGEBYSCORE', threads, '-inf', at - ttl * 1000)
redis.call('ZADD', threads, at, ARGV[11])
redis.call('EXPIRE', threads, ttl)
redis.call('HSET', run, unpack(ARGV, 13))
redis.call('HSET', run, 'head', ARGV[7], 'state', 'queued', 'seq', 0, 'attempt', 0, 'fence', 0,
  'created', at, 'on_busy', on_busy)
if held then
  redis.call('HSET', run, 'held', 1)
end
if hooks then
  redis.call('HSET', run, 'hooks', hooks)
end
if worker ~= '' then
  redis.call('HSET', run, 'worker', worker, 'attempt', 1, 'fence', 1)
end
redis.call('EXPIRE', run, ttl)
if ARGV[2] == '1' then
  redis.call('SET', message, id, 'EX', ttl)
end
redis.call('SADD', KEYS[5], id)
redis.call('EXPIRE', KEYS[5], ttl)
redis.call('ZADD', KEYS[6], at + ARGV[4], id)
redis.call('EXPIRE', KEYS[6], ttl)
if on_busy ~= 'parallel' then
  redis.call('RPUSH', thread, id)
  redis.call('EXPIRE', thread, ttl)
end
if ARGV[8] ~= '' then
  local limits = '0 ' .. ARGV[6] .. ' ' .. ttl
  append(KEYS[3], KEYS[4], ARGV[7], 0, 'user_message\n' .. ARGV[8], ARGV[10], limits, true)
  redis.call('EXPIRE', KEYS[3], ttl)
end
local reply = {'NEW', held and '0' or '1'}
for _, other in ipairs(busy) do
  reply[#reply + 1] = other
end
return reply
