-- include: append
-- Publish one event of a run, or refuse it. All checks come before the first write.
--
-- KEYS  1 run  2 log  3 live  4 open runs of the channel  5 leases  6 open runs of the thread  7 text
-- ARGV  1 run id      2 header words "<owner> <thread> <run>"   3 fence     4 seq     5 type
--       6 body        7 state after it    8 letters of the events sent so far
--       9 largest body in bytes           10 log length         11 ttl in seconds
--       12 call opened  13 its tool       14 call closed        15 status (terminal event only)
-- Reply {id}          the event's id; of a seq that is there already, the id it has ("" when trimmed)
--       {id, run id}  of a new terminal event: the thread's next run, to be released ("" for none)
-- Error RUN_NOT_FOUND  NOT_OWNER  FENCED  RUN_CLOSED  SEQ_GAP  EVENT_TOO_LARGE  CALL_NOT_OPEN

local run, log = KEYS[1], KEYS[2]
local id, head, seq, kind, state, ttl = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5], ARGV[7], ARGV[11]
local opened, closed, status = ARGV[12], ARGV[14], ARGV[15]

local stored = redis.call('HMGET', run, 'head', 'fence', 'seq', 'state', 'log')
if not stored[1] then
  return redis.error_reply('RUN_NOT_FOUND ' .. id)
end
if stored[1] ~= head or stored[5] ~= log then
  return redis.error_reply('NOT_OWNER ' .. id)
end
if stored[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. id)
end
local last = tonumber(stored[3])
if seq <= last then
  -- A retry whose first reply was lost, or that no replica confirmed. It writes, so that a WAIT behind
  -- it, on whatever connection, covers the event too. Its entry is looked up by run and seq, newest first.
  redis.call('EXPIRE', run, ttl)
  local mark, top = head .. ' ' .. seq .. ' ', '+'
  repeat
    local page = redis.call('XREVRANGE', log, top, '-', 'COUNT', 64)
    for _, entry in ipairs(page) do
      local link = string.find(entry[2][2], ' ', 1, true)
      if string.sub(entry[2][2], link + 1, link + #mark) == mark then
        return {entry[1]}
      end
      top = '(' .. entry[1]
    end
  until #page < 64
  return {''}
end
if stored[4] == 'completed' then
  return redis.error_reply('RUN_CLOSED ' .. id)
end
if seq > last + 1 then
  return redis.error_reply('SEQ_GAP ' .. id .. ' at ' .. last)
end
if #ARGV[6] > tonumber(ARGV[9]) then
  return redis.error_reply('EVENT_TOO_LARGE ' .. id .. ' ' .. #ARGV[6] .. ' bytes')
end
if closed ~= '' and redis.call('HEXISTS', run, 'call:' .. closed) == 0 then
  return redis.error_reply('CALL_NOT_OPEN ' .. id)
end

local event = append(log, KEYS[3], head .. ' ' .. seq .. ' ' .. kind, ARGV[6], ARGV[10], ttl)
redis.call('HSET', run, 'seq', seq, 'state', state, 'sent', ARGV[8])
redis.call('EXPIRE', run, ttl)
if opened ~= '' then
  redis.call('HSET', run, 'call:' .. opened, now() .. ' ' .. ARGV[13])
elseif closed ~= '' then
  redis.call('HDEL', run, 'call:' .. closed)
elseif kind == 'agent_started' then
  redis.call('HSET', run, 'started', now())
end
if status == '' then
  redis.call('EXPIRE', KEYS[4], ttl)
  return {event}
end

redis.call('HSET', run, 'status', status, 'completed', now())
redis.call('SREM', KEYS[4], id)
redis.call('ZREM', KEYS[5], id)
redis.call('LREM', KEYS[6], 0, id)
redis.call('EXPIRE', KEYS[7], ttl)
return {event, oldest(KEYS[6], run, id) or ''}
