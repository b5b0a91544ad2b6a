-- The record of a credential: its chunk, the place in it, and its ten bytes; nil if there is none, or none any more.
local function cell_of(id, number)
  local chunk, place = base .. 'c:' .. id .. pack('>I4', floor(number / 64)), number % 64 * 10
  local cell = call('GETRANGE', chunk, place, place + 9)
  if #cell < 10 or sub(cell, 1, 1) == '\0' or unpack('>I4', cell, 7) * 1000 <= now then return nil end
  return cell, chunk, place
end
