-- Shared by the scripts: the clock, the one way to append (an entry in a channel's log, and the same on
-- its live channel), and the head of a thread's list of open runs.
--
-- now()      milliseconds since 1970, Redis' clock
-- append(log, live, header, body, maxlen, ttl_seconds) -> id of the new entry
--   header = "<owner> <thread> <run> <seq> <type>". The link to the entry before is read from the log
--   itself, so it cannot disagree with it, whatever a failover or a restart left behind. The first id of
--   a millisecond does not end in 0 but in a digest of what it names: two masters that take events at the
--   same time would otherwise give different events the same ids, and their histories could be spliced.
-- is_there(run, id, other) -> whether run `other` has a hash; its key is made after `run`, the key of `id`
-- oldest(thread, run, id) -> the thread's oldest open run, or false. Heads without a hash (expired, or
--   lost in a failover) are taken off the list: nobody would ever end them, and they hold up the rest.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function append(log, live, header, body, maxlen, ttl)
  local newest = redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)
  local prev = newest[1] and newest[1][1] or '0-0'
  local linked = prev .. ' ' .. header .. '\n' .. body
  local at, wanted = now(), '*'
  if at > tonumber(string.match(prev, '^%d+')) then
    wanted = string.format('%.0f-%d', at, tonumber(string.sub(redis.sha1hex(prev .. header), 1, 5), 16))
  end
  local id = redis.pcall('XADD', log, 'MAXLEN', '~', maxlen, wanted, 'e', linked)
  if type(id) == 'table' then -- the log's newest entries were deleted: it still knows their ids
    id = redis.call('XADD', log, 'MAXLEN', '~', maxlen, '*', 'e', linked)
  end
  redis.call('EXPIRE', log, ttl)
  redis.call('PUBLISH', live, id .. ' ' .. linked)
  return id
end

local function is_there(run, id, other)
  local _, folder = string.find(run, ':run:', 1, true)
  local word = string.gsub(other, '[^%w_.~-]', function(byte)
    return string.format('%%%02X', string.byte(byte))
  end)
  return other == id or redis.call('EXISTS', string.sub(run, 1, folder) .. word) == 1
end

local function oldest(thread, run, id)
  local head = redis.call('LINDEX', thread, 0)
  while head and not is_there(run, id, head) do
    redis.call('LREM', thread, 0, head)
    head = redis.call('LINDEX', thread, 0)
  end
  return head
end
