-- ARGV: 2 task id, first number, limit. Looks at no more than 256 chunks; answers where to go on (0xffffffff: the end), then numbers and cells.
local id, from, limit = unpack('>c16I4I4', ARGV[2])
local t = find(id)
local found, chunk, seen = {}, nil, 0
while t and from < t.count and #found < limit do
  if from % 64 == 0 or not chunk then
    if seen == 256 then break end
    seen = seen + 1
    chunk = redis.pcall('GET', base .. 'c:' .. id .. pack('>I4', floor(from / 64))) or ''
    if type(chunk) == 'table' then
      -- No chunk at all: one cell that is none stands for what it held.
      chunk, found[#found + 1] = '', pack('>I4', from) .. string.rep('\255', 10)
    end
  end
  local cell = sub(chunk, from % 64 * 10 + 1, from % 64 * 10 + 10)
  if #cell == 10 and sub(cell, 1, 1) ~= '\0' and unpack('>I4', cell, 7) * 1000 > now then
    found[#found + 1] = pack('>I4', from) .. cell
  end
  from = chunk == '' and (floor(from / 64) + 1) * 64 or from + 1
end
return reply('l', pack('>I4', t and from < t.count and from or 4294967295) .. table.concat(found))
