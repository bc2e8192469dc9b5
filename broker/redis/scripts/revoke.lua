-- Remember that what was issued before a moment does not count any more; the later moment stays.
--
-- KEYS  1 record
-- ARGV  1 issued before: milliseconds since 1970   2 ttl in seconds   3 who, when and why, as JSON
-- Reply the moment that counts now

local known = redis.call('HGET', KEYS[1], 'before')
if not known or tonumber(known) <= tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'before', ARGV[1], 'note', ARGV[3])
  known = ARGV[1]
end
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then
  redis.call('EXPIRE', KEYS[1], ARGV[2])
end
return known
