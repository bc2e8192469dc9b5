-- Shared by the scripts: the clock, and the one way to append (an entry in a channel's log, and the same on
-- its live channel).
--
-- now()      milliseconds since 1970, Redis' clock
-- append(log, live, head, seq, event, step, limits, trim) -> id of the new entry, Redis' seconds since 1970
--   head = "<owner> <thread> <run>", event = "<type>\n<body>". The link to the entry before is read from
--   the log itself, so it cannot disagree with it, whatever a failover or a restart left behind. `step` is a
--   random number of the caller's, from 1 on: ids advance by it within a millisecond, its first id included.
--   Two masters that take events at the same time would otherwise give different events the same ids, and
--   their histories could be spliced. limits = "<largest body in bytes> <log length> <ttl in seconds>": the
--   log is trimmed if `trim` says so; one that was empty gets its ttl, to renew it is the caller's.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function append(log, live, head, seq, event, step, limits, trim)
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  local prev = newest and newest[1] or '0-0'
  local linked = prev .. ' ' .. head .. ' ' .. seq .. ' ' .. event
  local time = redis.call('TIME')
  -- As text: Lua's numbers are slow to print. 13 digits of milliseconds, until the year 2286.
  local wanted = time[1] .. string.sub('00000' .. time[2], -6, -4) .. '-' .. step
  if string.sub(prev, 1, 14) == string.sub(wanted, 1, 14) then
    wanted = string.sub(prev, 1, 14) .. string.format('%.0f', string.sub(prev, 15) + step)
  end
  local id
  if trim then
    id = redis.pcall('XADD', log, 'MAXLEN', '~', string.match(limits, ' (%d+) '), wanted, 'e', linked)
  else
    id = redis.pcall('XADD', log, wanted, 'e', linked)
  end
  if type(id) == 'table' then -- the clock is behind the log, or the log's newest entries were deleted
    id = redis.call('XADD', log, '*', 'e', linked)
  end
  if not newest then
    redis.call('EXPIRE', log, string.match(limits, '%d+$'))
  end
  redis.call('PUBLISH', live, id .. ' ' .. linked)
  return id, time[1]
end
