-- ARGV: 2 task id, number.
local id, number = unpack('>c16I4', ARGV[2])
local cell, chunk, place
local t = find(id)
if t and number < t.count then cell, chunk, place = cell_of(id, number) end
if not cell then return reply('u', '') end
if string.byte(cell) < 128 then
  cell = string.char(string.byte(cell) + 128) .. sub(cell, 2)
  call('SETRANGE', chunk, place, cell)
  append(2, unpack('>I4', cell, 7) * 1000, sub(ARGV[2], 1, 20))
end
return reply('v', at .. chain .. cell)
