-- Note to which span of a trace a run's attempt belongs.
--
-- KEYS  1 run
-- ARGV  1 fence  2 traceparent
-- Reply 1 when it was noted; 0 when the run is gone, or under another fence

if redis.call('HMGET', KEYS[1], 'fence')[1] ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'trace', ARGV[2])
return 1
