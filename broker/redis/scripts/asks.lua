-- Shared by the scripts: what a run asks its user.
--
-- asks(run) -> whether a question of the run is open. Those that a lost attempt left count until their time
--   is over.

local function asks(run)
  for _, field in ipairs(redis.call('HKEYS', run)) do
    if string.sub(field, 1, 4) == 'ask:' and tonumber(redis.call('HGET', run, field)) > now() then
      return true
    end
  end
  return false
end
