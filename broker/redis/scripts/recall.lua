-- include: find
-- Answer the ids of events of a run that are in its log already. It writes, so that a WAIT behind it, on
-- whatever connection, covers these events too.
--
-- KEYS  1 run  2 log
-- ARGV  1 header words "<owner> <thread> <run>"  2 fence  3 first seq  4 last seq
--       5 ttl in seconds with a tenth on top
-- Reply the ids, in order of seq; "" for one that was trimmed
-- Error RUN_NOT_FOUND  FENCED  SEQ_GAP (a failover took some of them back)

local head = ARGV[1]
local name = string.match(head, '%S+$')
local stored = redis.call('HMGET', KEYS[1], 'fence', 'seq')
if not stored[1] then
  return redis.error_reply('RUN_NOT_FOUND ' .. name)
end
if stored[1] ~= ARGV[2] then
  return redis.error_reply('FENCED ' .. name)
end
if stored[2] + 0 < ARGV[4] + 0 then
  return redis.error_reply('SEQ_GAP ' .. name .. ' at ' .. stored[2])
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return ids_of(KEYS[2], head, ARGV[3] + 0, ARGV[4] + 0)
