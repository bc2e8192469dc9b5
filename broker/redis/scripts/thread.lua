-- Shared by the scripts: a thread's list of open runs.
--
-- is_there(run, id, other) -> whether run `other` has a hash; its key is made after `run`, the key of `id`
-- oldest(thread, run, id) -> the thread's oldest open run, or false. Heads without a hash (expired, or
--   lost in a failover) are taken off the list: nobody would ever end them, and they hold up the rest.

local function is_there(run, id, other)
  local _, folder = string.find(run, ':run:', 1, true)
  local word = string.gsub(other, '[^%w_.~-]', function(byte)
    return string.format('%%%02X', string.byte(byte))
  end)
  return other == id or redis.call('EXISTS', string.sub(run, 1, folder) .. word) == 1
end

local function oldest(thread, run, id)
  local head = redis.call('LINDEX', thread, 0)
  while head and not is_there(run, id, head) do
    redis.call('LREM', thread, 0, head)
    head = redis.call('LINDEX', thread, 0)
  end
  return head
end
