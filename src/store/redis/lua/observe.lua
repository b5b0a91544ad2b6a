-- The partition's position, and the digest that its history holds at a sequence. Changes nothing, checks nothing.
local meta = redis.call('GET', KEYS[1])
if not meta then return '' end
if string.sub(meta, 1, 1) ~= '\1' then return redis.error_reply('DAMAGED meta') end
local position = string.sub(meta, 2, 41)
if struct.unpack('>I8', meta, 14) == tonumber(ARGV[1]) then return position .. string.sub(position, 21) end
local found = redis.call('XRANGE', string.sub(KEYS[1], 1, -2) .. 'h', ARGV[1] .. '-0', ARGV[1] .. '-0')
return position .. (found[1] and string.sub(found[1][2][2], -20) or '')
