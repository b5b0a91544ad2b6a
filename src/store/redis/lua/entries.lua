-- ARGV: 2 after which sequence, how many to look at. Answers the position, whether there may be more, the last sequence that was looked at, and the entries
-- that are not yet to be forgotten.
local after, count = unpack('>I8I4', ARGV[2])
local rows = call('XRANGE', base .. 'h', string.format('%.0f-0', after + 1), '+', 'COUNT', count)
local found = {}
for _, row in ipairs(rows) do
  local entry = row[2][2]
  after = tonumber(string.match(row[1], '^%d+'))
  if unpack('>I8', entry, 11) > now then found[#found + 1] = pack('>I8I2', after, #entry) .. entry end
end
return reply('e', at .. chain .. pack('>BI8', #rows == count and 1 or 0, after) .. table.concat(found))
