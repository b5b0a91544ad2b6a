-- Who follows. ARGV: 1 now, skew; 2 how many there may be; then stream and registration (version 1, until 8, ...) by turns. Those past their time go. Answers those for which there is no room:
-- a stream that is here is always renewed.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub
local now, skew = unpack('>I8I8', ARGV[1])
local server = call('TIME')
local apart = now - (server[1] * 1000 + math.floor(server[2] / 1000))
if apart > skew or apart < -skew then return 'K' .. pack('>I8', apart < 0 and -apart or apart) end
local times = sub(KEYS[1], 1, -2) .. 'u'
local over = call('ZRANGEBYSCORE', times, '-inf', now, 'LIMIT', 0, 1000)
if #over > 0 then
  local spread = _G.unpack
  call('HDEL', KEYS[1], spread(over))
  call('ZREM', times, spread(over))
end
local count, most, refused = call('HLEN', KEYS[1]), unpack('>I4', ARGV[2]), {}
for i = 3, #ARGV, 2 do
  local id, new = ARGV[i], ARGV[i + 1]
  local old = call('HGET', KEYS[1], id)
  local stays = old and unpack('>I8', old, 2) or 0
  if stays > unpack('>I8', new, 2) then new = sub(new, 1, 1) .. sub(old, 2, 9) .. sub(new, 10) end
  if not old and count >= most then
    refused[#refused + 1] = id
  elseif old ~= new then
    if not old then count = count + 1 end
    call('HSET', KEYS[1], id, new)
    call('ZADD', times, unpack('>I8', new, 2), id)
  end
end
return 'r' .. table.concat(refused)
