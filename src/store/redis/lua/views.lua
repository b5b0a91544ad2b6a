-- ARGV: 2 owner or '', 3 its index or '', 4 task ids, one after the other. Those that are readable, in that order; the index loses what is not there at all.
local found = {}
for i = 1, #ARGV[4], 16 do
  local id = sub(ARGV[4], i, i + 15)
  local t = find(id, true)
  if t and (ARGV[2] == '' or owner_of(t) == ARGV[2]) then
    found[#found + 1] = id .. view(t)
  elseif not t and ARGV[3] ~= '' and call('EXISTS', base .. 't:' .. id) == 0 then
    call('ZREM', ARGV[3], id)
  end
end
return reply('v', table.concat(found))
