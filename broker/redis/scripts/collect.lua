-- include: now asks
-- A worker looks for the answer to what it asked, or takes the question back.
--
-- KEYS  1 run
-- ARGV  1 run id  2 fence  3 request id  4 "1" to take the question back unless it is answered, else "0"
-- Reply {"ANSWER", the answer as JSON}
--       {"OPEN"}     nobody has answered yet
--       {"EXPIRED"}  nobody has in time, and nobody can any more
--       {"UNKNOWN"}  not asked (any more): taken back, or a failover took the question
-- Error RUN_NOT_FOUND  FENCED  RUN_CLOSED

local run, ask = KEYS[1], 'ask:' .. ARGV[3]
local stored = redis.call('HMGET', run, 'fence', 'state', ask, 'answer:' .. ARGV[3])
if not stored[1] then
  return redis.error_reply('RUN_NOT_FOUND ' .. ARGV[1])
end
if stored[1] ~= ARGV[2] then
  return redis.error_reply('FENCED ' .. ARGV[1])
end
if stored[2] == 'completed' then
  return redis.error_reply('RUN_CLOSED ' .. ARGV[1])
end
if stored[4] then
  return {'ANSWER', stored[4]}
end
if not stored[3] then
  return {'UNKNOWN'}
end
local open = tonumber(stored[3]) > now()
if open and ARGV[4] == '0' then
  return {'OPEN'}
end
if open then
  redis.call('HDEL', run, ask)
end
if stored[2] == 'waiting' and not asks(run) then
  redis.call('HSET', run, 'state', 'running')
end
return {open and 'UNKNOWN' or 'EXPIRED'}
