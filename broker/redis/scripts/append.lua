-- Shared by the scripts: the one way to append (an entry in a channel's log, and the same on its live channel).
--
-- append(log, live, head, seq, event, step, limits, trim, tail) -> id of the new entry, Redis' seconds since 1970,
--     id of the entry before it
--   head = "<owner> <thread> <run>", event = "<type>\n<body>". The link to the entry before is asked of the
--   log itself, so it cannot disagree with it, whatever a failover or a restart left behind. `tail`, nil if the
--   caller knows none, is where the log ended when something of the run was appended last: to ask whether
--   anything came after it takes half of what it takes to read the last entry. Who trims reads it anyway.
--   `step` is a random number of the caller's, from 1 on: ids advance by it within a millisecond, its first id
--   included. Two masters that take events at the same time would otherwise give different events the same ids,
--   and their histories could be spliced. limits = "<largest body in bytes> <log length> <ttl in seconds>": the
--   log is trimmed if `trim` says so; one that was empty gets its ttl, to renew it is the caller's.

local function append(log, live, head, seq, event, step, limits, trim, tail)
  local prev, is_empty = tail, false
  if trim or not tail or redis.call('XREAD', 'COUNT', 1, 'STREAMS', log, tail) then
    local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
    prev, is_empty, tail = newest and newest[1] or '0-0', not newest, nil
  end
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
  elseif tail then
    id = redis.pcall('XADD', log, 'NOMKSTREAM', wanted, 'e', linked)
    if not id then -- the log is gone, and begins anew
      return append(log, live, head, seq, event, step, limits)
    end
  else
    id = redis.pcall('XADD', log, wanted, 'e', linked)
  end
  if type(id) == 'table' then -- the clock is behind the log, or the log's newest entries were deleted
    id = redis.call('XADD', log, '*', 'e', linked)
  end
  if is_empty then
    redis.call('EXPIRE', log, string.match(limits, '%d+$'))
  end
  redis.call('PUBLISH', live, id .. ' ' .. linked)
  return id, time[1], prev
end
