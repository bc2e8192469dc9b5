-- Shared by the scripts: a thread's list of open runs.
--
-- key_of(run, other) -> the key of run `other`, made after `run`, the key of another one
-- is_there(run, id, other) -> whether run `other` has a hash; `run` is the key of `id`
-- oldest(thread, run, id) -> the thread's oldest open run, or false. Heads without a hash (expired, or
--   lost in a failover) are taken off the list: nobody would ever end them, and they hold up the rest.

local function key_of(run, other)
  local _, folder = string.find(run, ':run:', 1, true)
  local word = string.gsub(other, '[^%w_.~-]', function(byte)
    return string.format('%%%02X', string.byte(byte))
  end)
  return string.sub(run, 1, folder) .. word
end

local function is_there(run, id, other)
  return other == id or redis.call('EXISTS', key_of(run, other)) == 1
end

local function oldest(thread, run, id)
  local head = redis.call('LINDEX', thread, 0)
  while head and not is_there(run, id, head) do
    redis.call('LREM', thread, 0, head)
    head = redis.call('LINDEX', thread, 0)
  end
  return head
end
