-- Append streamed text to a run and publish the delta. Deltas are not in the log; the text is kept. It gets
-- its time to live as it begins; the run's renewals and its end renew it.
--
-- KEYS  1 run  2 live  3 text
-- ARGV  1 header words "<owner> <thread> <run>"  2 fence  3 offset in bytes  4 text  5 body
--       6 largest text in bytes  7 ttl in seconds with a tenth on top
-- Reply the text's length after it. Sending the same delta again changes nothing.
-- Error RUN_NOT_FOUND  NOT_OWNER  FENCED  RUN_CLOSED  SEQ_GAP  EVENT_TOO_LARGE

local head, offset, text = ARGV[1], ARGV[3], ARGV[4]

local function named()
  return string.match(head, '%S+$')
end

local stored = redis.call('HMGET', KEYS[1], 'head', 'fence', 'state', 'live')
if not stored[1] then
  return redis.error_reply('RUN_NOT_FOUND ' .. named())
end
if stored[1] ~= head or stored[4] ~= KEYS[2] then
  return redis.error_reply('NOT_OWNER ' .. named())
end
if stored[2] ~= ARGV[2] then
  return redis.error_reply('FENCED ' .. named())
end
if stored[3] == 'completed' then
  return redis.error_reply('RUN_CLOSED ' .. named())
end
local length, following = redis.call('STRLEN', KEYS[3]), offset + #text
if length >= following then
  return length
end
if length ~= offset + 0 then
  return redis.error_reply('SEQ_GAP ' .. named() .. ' text at ' .. length)
end
if following > tonumber(ARGV[6]) then
  return redis.error_reply('EVENT_TOO_LARGE ' .. named() .. ' text over ' .. ARGV[6] .. ' bytes')
end
redis.call('APPEND', KEYS[3], text)
if length == 0 then
  redis.call('EXPIRE', KEYS[3], ARGV[7])
end
redis.call('PUBLISH', KEYS[2],
  '- ' .. string.format('%d', following) .. ' ' .. head .. ' ' .. offset .. ' agent_delta\n' .. ARGV[5])
return following
