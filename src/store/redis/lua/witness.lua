-- Brokers on record. ARGV: id, value (version 1, when it was seen 8, the server), the time before which others are forgotten. Answers all of them: id 16, length 2, value.
local before, found = struct.unpack('>I8', ARGV[3]), {}
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
local all = redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local id, value = all[i], all[i + 1]
  if #id ~= 16 or #value < 9 or struct.unpack('>I8', value, 2) < before then
    redis.call('HDEL', KEYS[1], id)
  else
    found[#found + 1] = id .. struct.pack('>I2', #value) .. value
  end
end
return table.concat(found)
