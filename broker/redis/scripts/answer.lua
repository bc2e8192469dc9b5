-- include: now append asks
-- Take a user's answer to what his run asked, and show it in the channel. The first answer counts.
--
-- A question is open from its input_required on, and whatever becomes of the worker that asked: until it is
-- answered, its time is over, or the run has ended. The answer stays in the run's hash, for the worker that
-- waits for it and for one that asks the same again.
--
-- KEYS  1 run  2 log  3 live
-- ARGV  1 run id  2 owner token  3 request id  4 answer, as JSON  5 body of the echo
--       6 random step of the echo's id, 1 or more
--       7 "<any number> <log length> <ttl in seconds with a tenth on top>"
-- Reply the run's worker, or "": tell it. The same answer again changes nothing, but it writes: so that a
--       WAIT behind it, on whatever connection, covers the answer too
-- Error RUN_NOT_FOUND (also when it is somebody else's)  NOT_WAITING

local run, log, request, limits = KEYS[1], KEYS[2], ARGV[3], ARGV[7]
local ask, answer = 'ask:' .. request, 'answer:' .. request
local stored = redis.call('HMGET', run, 'owner', 'log', 'state', 'worker', 'head', ask, answer)
if stored[1] ~= ARGV[2] or stored[2] ~= log then
  return redis.error_reply('RUN_NOT_FOUND ' .. ARGV[1])
end
local ttl = string.match(limits, '%d+$')
local function refused(why)
  return redis.error_reply('NOT_WAITING ' .. ARGV[1] .. ' ' .. why)
end
if stored[7] then
  if stored[7] ~= ARGV[4] then
    return refused('it was answered before')
  end
  redis.call('EXPIRE', run, ttl)
  return stored[4] or ''
end
if stored[3] == 'completed' then
  return refused('it has ended')
end
if not stored[6] then
  return refused('it did not ask this, or does not ask it any more')
end
if tonumber(stored[6]) <= now() then
  return refused('the time to answer is over')
end

redis.call('HDEL', run, ask)
redis.call('HSET', run, answer, ARGV[4])
if stored[3] == 'waiting' and not asks(run) then
  redis.call('HSET', run, 'state', 'running')
end
redis.call('EXPIRE', run, ttl)
append(log, KEYS[3], stored[5], 0, 'user_input\n' .. ARGV[5], ARGV[6], limits, true)
redis.call('EXPIRE', log, ttl)
return stored[4] or ''
