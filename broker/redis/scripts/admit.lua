-- include: bucket
-- Let a connection in: take one connect, and a seat for it. Seats are counted by gateway: each tells how many
-- it has with this one, so telling it again is harmless, and what was lost is mended by it.
--
-- KEYS  1 seats  2 bucket of connects
-- ARGV  1 node id  2 the node's seats with this one  3 most seats of all nodes  4 capacity of the bucket
--       5 microseconds for each of its tokens  6 ms that the seats are kept
--       7 "1" when the connect was taken by a call before, else "0"
-- Reply 0             it is in
--       ms            too many connects: to wait, 1 or more
--       {node ids…}   too many seats: the other nodes that have some; the connect is taken all the same

local seats, node = KEYS[1], ARGV[1]
if ARGV[7] == '0' then
  local at = micros()
  local wait, value = look(KEYS[2], ARGV[4] + 0, ARGV[5] + 0, at)
  if wait > 0 then
    return wait
  end
  spend(KEYS[2], value, at)
end
local taken, others = ARGV[2] + 0, {}
local stored = redis.call('HGETALL', seats)
for index = 1, #stored, 2 do
  if stored[index] ~= node then
    others[#others + 1] = stored[index]
    taken = taken + (tonumber(stored[index + 1]) or 0)
  end
end
if taken > ARGV[3] + 0 then
  return others
end
redis.call('HSET', seats, node, ARGV[2])
redis.call('PEXPIRE', seats, ARGV[6])
return 0
