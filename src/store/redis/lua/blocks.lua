-- Fences that refuse new tasks still, and those that cannot be read, which the caller is to say something about.
local all = call('HGETALL', base .. 'f')
local found = {}
for i = 1, #all, 2 do
  local target, fence = all[i], all[i + 1]
  local readable = #fence >= 49 and sub(fence, 1, 1) == '\1'
  if not readable or unpack('>I8', fence, 18) > now then
    found[#found + 1] = pack('>I4', #target) .. target .. pack('>I4', #fence) .. fence
  end
end
return reply('v', table.concat(found))
