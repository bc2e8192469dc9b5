-- Write what an operator did into the audit log, and tell every gateway to look there.
--
-- KEYS  1 audit log   2 notice channel
-- ARGV  1 what was done, as JSON   2 oldest entry to keep: milliseconds since 1970   3 ttl in seconds
-- Reply the entry's id

local id = redis.call('XADD', KEYS[1], 'MINID', '~', ARGV[2], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', KEYS[2], id)
return id
