-- ARGV: 2 owner or '', 3 task ids, one after the other. Those that are readable, in that order.
local found = {}
for i = 1, #ARGV[3], 16 do
  local id = sub(ARGV[3], i, i + 15)
  local t = find(id, true)
  if t and (ARGV[2] == '' or owner_of(t) == ARGV[2]) then found[#found + 1] = id .. view(t) end
end
return reply('v', table.concat(found))
