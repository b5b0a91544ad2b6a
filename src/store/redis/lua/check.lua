-- ARGV: 2 task id, number; 3 the name of its key among fences.
local id, number = unpack('>c16I4', ARGV[2])
local t = find(id)
local cell = t and number < t.count and cell_of(id, number)
if not cell then return reply('u', '') end
local dead = ending(t)
if dead then return reply('e', dead) end
if string.byte(cell) >= 128 then return reply('r', '') end
if key_fenced(ARGV[3]) then return reply('k', '') end
return reply('a', cell .. gen .. pack('>I8', t.began))
