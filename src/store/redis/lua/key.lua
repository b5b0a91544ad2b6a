-- Whether a fence stands of the key, given its name among fences. Nobody looks for it where there are no fences.
local function key_fenced(name)
  local fence = fences > 0 and call('HGET', base .. 'f', name)
  if not fence then return false end
  local form, forget = string.byte(fence), unpack('>I8', fence, 26)
  if form ~= 1 then error(redis.error_reply('DAMAGED fence')) end
  return forget > now
end
