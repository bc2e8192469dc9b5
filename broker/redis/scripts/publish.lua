-- include: append
-- Publish one event of a run, or refuse it. All checks come before the first write.
--
-- Most events change nothing in the run's hash but its seq: what else may change is told by those that
-- change it. Times to live are renewed when a tenth has passed, with that tenth on top, so that a log lives
-- for at least its whole time to live after its last event. The log is trimmed with every 16th event of a
-- run and with its last.
--
-- An event that webhooks want, as the run's field `hooks` says, goes into their outbox too, or is counted there
-- as dropped: "<outbox> <hash to count in> <most entries> <ttl in seconds> <type> <type> ".
--
-- KEYS  1 run  2 log  3 live  4 open runs of the channel
--       5 leases  6 open runs of the thread  7 text  8 open runs of the owner; these with a terminal event only
-- ARGV  1 header words "<owner> <thread> <run>"  2 fence  3 seq  4 "<type>\n<body>"
--       5 random step of the id, 1 or more
--       6 "<largest body in bytes> <log length> <ttl in seconds with a tenth on top>"
--       with an event that changes more than seq, also
--       7 state after it       8 letters of the events sent so far
--       9 call opened, or request id of a question   10 its tool, or for how long it is open in ms
--       11 call closed         12 status ("" unless terminal)       13 run id
-- Reply id            the event's id; of a seq that is there already, the id it has ("" when trimmed)
--       {id, run id}  of a new terminal event: the thread's next run, to be released ("" for none)
-- Error RUN_NOT_FOUND  NOT_OWNER  FENCED  RUN_CLOSED  SEQ_GAP  EVENT_TOO_LARGE  CALL_NOT_OPEN

local run, log, head, seq, event, limits = KEYS[1], KEYS[2], ARGV[1], ARGV[3], ARGV[4], ARGV[6]
local state, opened, closed, status = ARGV[7], ARGV[9], ARGV[11], ARGV[12]

local stored = redis.call('HMGET', run, 'head', 'fence', 'seq', 'state', 'log', 'due', 'hooks', 'tail')
local why, about
if not stored[1] then
  why = 'RUN_NOT_FOUND'
elseif stored[1] ~= head or stored[5] ~= log then
  why = 'NOT_OWNER'
elseif stored[2] ~= ARGV[2] then
  why = 'FENCED'
elseif seq - stored[3] < 1 then
  -- A retry whose first reply was lost, or that no replica confirmed. It writes, so that a WAIT behind
  -- it, on whatever connection, covers the event too.
  redis.call('EXPIRE', run, string.match(limits, '%d+$'))
  -- include: find
  return ids_of(log, head, seq + 0, seq + 0)[1]
elseif stored[4] == 'completed' then
  why = 'RUN_CLOSED'
elseif seq - stored[3] > 1 then
  why, about = 'SEQ_GAP', 'at ' .. stored[3]
elseif #event > 1024 then -- no installation has a lower limit
  local size = #event - string.find(event, '\n', 1, true)
  if size > tonumber(string.match(limits, '^%d+')) then
    why, about = 'EVENT_TOO_LARGE', size .. ' bytes'
  end
end
if not why and state and closed ~= '' and redis.call('HEXISTS', run, 'call:' .. closed) == 0 then
  why = 'CALL_NOT_OPEN'
end
if why then
  return redis.error_reply(why .. ' ' .. string.match(head, '%S+$') .. (about and ' ' .. about or ''))
end
local outbox, wanted, most, kept, waiting
if stored[7] and string.find(stored[7], ' ' .. string.match(event, '^[^\n]*') .. ' ', 1, true) then
  outbox, wanted, most, kept = string.match(stored[7], '^(%S+) (%S+) (%d+) (%d+) ')
  waiting = redis.call('XLEN', outbox)
end

local terminal = state and status ~= ''
-- Where the log ended with the run's last event, behind a '~' if others had come before that: where runs take
-- turns it is of no use, and the log's last entry is read at once.
local tail, is_shared = stored[8], stored[8] and string.sub(stored[8], 1, 1) == '~'
local id, second, prev = append(log, KEYS[3], head, seq, event, ARGV[5], limits, terminal or seq % 16 == 0,
  not is_shared and tail or nil)
tail = (not tail or string.sub(tail, is_shared and 2 or 1) == prev) and id or '~' .. id
if outbox and waiting < tonumber(most) then
  redis.call('XADD', outbox, '*', 'e', id .. ' 0-0 ' .. head .. ' ' .. seq .. ' ' .. event)
  if waiting == 0 then
    redis.call('EXPIRE', outbox, kept)
  end
elseif outbox then
  redis.call('HINCRBY', wanted, 'dropped', 1)
  redis.call('EXPIRE', wanted, kept)
end
if terminal or not stored[6] or second - stored[6] >= 0 then
  local ttl = string.match(limits, '%d+$')
  redis.call('EXPIRE', run, ttl)
  redis.call('EXPIRE', log, ttl)
  redis.call('EXPIRE', KEYS[4], ttl)
  redis.call('HSET', run, 'due', math.floor(second + ttl / 11))
end
if not state then
  redis.call('HSET', run, 'seq', seq, 'tail', tail)
  return id
end

-- include: now
redis.call('HSET', run, 'seq', seq, 'tail', tail, 'state', state, 'sent', ARGV[8])
if string.sub(event, 1, 15) == 'input_required\n' then
  redis.call('HSET', run, 'ask:' .. opened, now() + ARGV[10])
elseif opened ~= '' then
  redis.call('HSET', run, 'call:' .. opened, now() .. ' ' .. ARGV[10])
elseif closed ~= '' then
  redis.call('HDEL', run, 'call:' .. closed)
elseif string.sub(event, 1, 14) == 'agent_started\n' then
  redis.call('HSET', run, 'started', now())
end
if not terminal then
  return id
end

redis.call('HSET', run, 'status', status, 'completed', now())
redis.call('SREM', KEYS[4], ARGV[13])
redis.call('ZREM', KEYS[5], ARGV[13])
redis.call('LREM', KEYS[6], 0, ARGV[13])
redis.call('ZREM', KEYS[8], ARGV[13])
redis.call('EXPIRE', KEYS[7], string.match(limits, '%d+$'))
-- include: thread
return {id, oldest(KEYS[6], run, ARGV[13]) or ''}
