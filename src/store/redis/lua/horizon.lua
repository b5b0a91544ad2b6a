-- The latest deadline that any task of the partition was ever given: nothing that began by now lives beyond it. It lies at the end of the meta; where a meta has
-- none yet, the due index knows of all tasks that there are.
local function horizon()
  if #meta >= 75 then return (unpack('>I8', meta, 68)) end
  local last = call('ZRANGE', base .. 'd', -1, -1, 'WITHSCORES')
  return tonumber(last[2] or '0')
end

local function widen(deadline)
  local known = horizon()
  if deadline > known or #meta < 75 then call('SETRANGE', KEYS[1], 67, pack('>I8', math.max(deadline, known))) end
end
