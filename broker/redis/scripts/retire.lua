-- Take consumers that have nothing on their hands off a request queue's group.
--
-- KEYS  1 request queue
-- ARGV  1 group  2 the one consumer to look at, "" for all  3 only those idle for this long, in ms
-- Reply how many were removed; 0 when there is no such queue or group (any more)

local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if consumers.err then
  return 0
end
local removed = 0
for _, flat in ipairs(consumers) do
  local consumer = {}
  for at = 1, #flat, 2 do
    consumer[flat[at]] = flat[at + 1]
  end
  if
    consumer.pending == 0
    and consumer.idle >= tonumber(ARGV[3])
    and (ARGV[2] == '' or consumer.name == ARGV[2])
  then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
    removed = removed + 1
  end
end
return removed
