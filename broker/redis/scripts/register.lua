-- include: append thread
-- Register a run: once per message id, with its place on the thread, its deadline and the echo.
--
-- KEYS  1 run  2 message  3 log  4 live  5 open runs of the channel  6 leases  7 open runs of the thread
-- ARGV  1 run id            2 "1" when the message key counts, else "0"
--       3 on_busy: queue | reject | interrupt | parallel
--       4 ms until the sweeper first looks at it (a tenth of the queue time-out: by then its queue
--         entry may have been lost; or the lease, of a run that is claimed at once)
--       5 ttl in seconds with a tenth on top          6 log length
--       7 header words "<owner> <thread> <run>"       8 echo body, "" for none
--       9 worker that claims it at once, "" for none  10 random step of the echo's id, 1 or more
--       11… field, value pairs of the run's hash
-- Reply {"NEW", "1" to enqueue | "0" held behind the thread's open run, open run ids…}
--       {"DUPLICATE", run id that the message began}
-- Error THREAD_BUSY  RUN_EXISTS
-- The same again, of a message or of the worker that has it, registers nothing, but it writes: so that a
-- WAIT behind it, on whatever connection, covers the registration too.

local run, message, thread = KEYS[1], KEYS[2], KEYS[7]
local id, on_busy, ttl, worker = ARGV[1], ARGV[3], ARGV[5], ARGV[9]

if ARGV[2] == '1' then
  local begun = redis.call('GET', message)
  if begun then
    redis.call('EXPIRE', message, ttl)
    return {'DUPLICATE', begun}
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

local at = now()
local held = #busy > 0
redis.call('HSET', run, unpack(ARGV, 11))
redis.call('HSET', run, 'head', ARGV[7], 'state', 'queued', 'seq', 0, 'attempt', 0, 'fence', 0,
  'created', at, 'on_busy', on_busy)
if held then
  redis.call('HSET', run, 'held', 1)
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
