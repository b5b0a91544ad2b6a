-- Places of one workload: a hash of task ids and deadlines. ARGV: 1 now, skew; 2 task id, deadline, limit. The key goes with its latest deadline.
local call, pack, unpack, sub = redis.call, struct.pack, struct.unpack, string.sub
local now, skew = unpack('>I8I8', ARGV[1])
local server = call('TIME')
local apart = now - (server[1] * 1000 + math.floor(server[2] / 1000))
if apart > skew or apart < -skew then return 'K' .. pack('>I8', apart < 0 and -apart or apart) end
local id, deadline, limit = unpack('>c16I8I4', ARGV[2])
local taken = call('HLEN', KEYS[1])
local own = call('HGET', KEYS[1], id)
if taken >= limit and not (own and unpack('>I8', own) > now) then
  local places, holders = call('HGETALL', KEYS[1]), {}
  for i = 1, #places, 2 do
    if unpack('>I8', places[i + 1]) <= now then
      call('HDEL', KEYS[1], places[i])
      taken = taken - 1
    elseif #holders < limit then
      holders[#holders + 1] = places[i]
    end
  end
  if taken >= limit then return 'x' .. table.concat(holders) end
end
call('HSET', KEYS[1], id, pack('>I8', deadline))
local keep = math.max(deadline - now, 0) + 60000
if taken == 0 then call('PEXPIRE', KEYS[1], keep) else call('PEXPIRE', KEYS[1], keep, 'GT') end
return 'r'
