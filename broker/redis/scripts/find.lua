-- Shared by the scripts: where the events of a run are in its log.
--
-- ids_of(log, head, first, last) -> the ids of the run's events `first` to `last`, "" for one that was
--   trimmed. head = "<owner> <thread> <run>". They are looked for by run and seq, newest first.

local function ids_of(log, head, first, last)
  local ids, mark, top = {}, head .. ' ', '+'
  for at = 1, last - first + 1 do
    ids[at] = ''
  end
  repeat
    local page = redis.call('XREVRANGE', log, top, '-', 'COUNT', 64)
    for _, entry in ipairs(page) do
      local link = string.find(entry[2][2], ' ', 1, true)
      if string.sub(entry[2][2], link + 1, link + #mark) == mark then
        local seq = tonumber(string.match(entry[2][2], '^%d+', link + #mark + 1))
        if seq >= first and seq <= last then
          ids[seq - first + 1] = entry[1]
        end
        if seq > 0 and seq <= first then -- an echo of what the user does has 0
          return ids
        end
      end
      top = '(' .. entry[1]
    end
  until #page < 64
  return ids
end
