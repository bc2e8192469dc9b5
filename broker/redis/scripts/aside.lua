-- Put an event that a webhook would not take aside: out of the outbox, into the list of those.
--
-- KEYS  1 outbox  2 list of what was put aside
-- ARGV  1 id in the outbox  2 why  3 most entries of the list  4 its ttl in seconds
-- Reply 1, or 0 when it is not in the outbox (any more)

local entry = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])[1]
if not entry then
  return 0
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', 'why', ARGV[2], 'e', entry[2][2])
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
