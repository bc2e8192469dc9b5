-- Append streamed text to a run and publish the delta. Deltas are not in the log; the text is kept.
--
-- KEYS  1 run  2 live  3 text
-- ARGV  1 run id  2 header words "<owner> <thread> <run>"  3 fence  4 offset in bytes
--       5 text    6 body  7 largest text in bytes          8 ttl in seconds
-- Reply the text's length after it. Sending the same delta again changes nothing.
-- Error RUN_NOT_FOUND  NOT_OWNER  FENCED  RUN_CLOSED  SEQ_GAP  EVENT_TOO_LARGE

local id, head, offset, text = ARGV[1], ARGV[2], tonumber(ARGV[4]), ARGV[5]
local stored = redis.call('HMGET', KEYS[1], 'head', 'fence', 'state', 'live')
if not stored[1] then
  return redis.error_reply('RUN_NOT_FOUND ' .. id)
end
if stored[1] ~= head or stored[4] ~= KEYS[2] then
  return redis.error_reply('NOT_OWNER ' .. id)
end
if stored[2] ~= ARGV[3] then
  return redis.error_reply('FENCED ' .. id)
end
if stored[3] == 'completed' then
  return redis.error_reply('RUN_CLOSED ' .. id)
end
local length = redis.call('STRLEN', KEYS[3])
if length >= offset + #text then
  return length
end
if length ~= offset then
  return redis.error_reply('SEQ_GAP ' .. id .. ' text at ' .. length)
end
if length + #text > tonumber(ARGV[7]) then
  return redis.error_reply('EVENT_TOO_LARGE ' .. id .. ' text over ' .. ARGV[7] .. ' bytes')
end
length = redis.call('APPEND', KEYS[3], text)
redis.call('EXPIRE', KEYS[3], ARGV[8])
redis.call('PUBLISH', KEYS[2],
  '- ' .. length .. ' ' .. head .. ' ' .. ARGV[4] .. ' agent_delta\n' .. ARGV[6])
return length
