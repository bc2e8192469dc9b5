-- Shared by the scripts that append: one entry in a channel's log, and the same on its live channel.
--
-- now()      milliseconds since 1970, Redis' clock
-- append(log, live, header, body, maxlen, ttl_seconds) -> id of the new entry
--   header = "<owner> <thread> <run> <seq> <type>". The link to the entry before is read from the log
--   itself, so it cannot disagree with it, whatever a failover or a restart left behind.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function append(log, live, header, body, maxlen, ttl)
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  local prev = newest[1] and newest[1][1] or '0-0'
  local linked = prev .. ' ' .. header .. '\n' .. body
  local id = redis.call('XADD', log, 'MAXLEN', '~', maxlen, '*', 'e', linked)
  redis.call('EXPIRE', log, ttl)
  redis.call('PUBLISH', live, id .. ' ' .. linked)
  return id
end
