-- Shared by the scripts: token buckets, each kept as the time in microseconds at which it will be full again:
-- the arithmetic of broker/bucket.py. One that is full has no key.
--
-- micros()  microseconds since 1970, Redis' clock
-- look(key, capacity, interval, at) -> ms to wait for a token, rounded up (0: there is one), the value that
--   the bucket has without it. Changes nothing
-- spend(key, value, at)  gives the bucket that value
-- give_back(key, interval, at)  puts a token in again that was taken for nothing

local function micros()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

local function look(key, capacity, interval, at)
  local whole = capacity * interval
  local full_at = tonumber(redis.call('GET', key) or 0) or 0
  local after = math.min(math.max(full_at, at), at + whole) + interval
  return math.max(0, math.ceil((after - at - whole) / 1000)), after
end

local function spend(key, value, at)
  redis.call('SET', key, string.format('%.0f', value), 'PX', math.ceil((value - at) / 1000))
end

local function give_back(key, interval, at)
  local full_at = (tonumber(redis.call('GET', key) or 0) or 0) - interval
  if full_at > at then
    spend(key, full_at, at)
  else
    redis.call('DEL', key)
  end
end
