-- Begins a partition, or a new generation of it, if its generation is still the one expected ('' if unborn). ARGV: clock and the skew that it bears, expected, the new generation,
-- the least sequence to go on from. Answers with the position, ours or that of whoever was first.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub
local now, skew = unpack('>I8I8', ARGV[1])
local base = sub(KEYS[1], 1, -2)
local meta = call('GET', KEYS[1])
if meta and sub(meta, 1, 1) ~= '\1' then return redis.error_reply('DAMAGED meta') end
if (meta and sub(meta, 2, 13) or '') ~= ARGV[2] then return sub(meta or '', 2, 41) end
local seq, chain, clock = 0, string.rep('\0', 20), 0
local rest = pack('>I2I8I8I8', 0, 0, 0, 0)
if meta then
  local _
  _, seq, chain, clock = unpack('>c13I8c20I8', meta)
  rest = sub(meta, 50)
else
  call('DEL', base .. 'h')
end
-- All that the partition ever knew ends here: a time that ran far ahead is corrected, too.
if clock > now and clock - now <= 2 * skew then now = clock end
local least = unpack('>I8', ARGV[4])
if least > seq then seq = least end
local gen, at = ARGV[3], nil
call('SET', KEYS[1], '\1' .. gen .. pack('>I8', seq) .. chain .. pack('>I8', now) .. rest)
