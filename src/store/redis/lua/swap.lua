-- Compare and set. ARGV: 1 the version expected ('' if nothing is stored), 2 document, 3 the broker's clock and the skew that it bears: what a keyring waits for is counted by that clock.
-- Answers with the version and document that are stored then.
local now, skew = struct.unpack('>I8I8', ARGV[3])
local server = redis.call('TIME')
local apart = now - (server[1] * 1000 + math.floor(server[2] / 1000))
if apart > skew or apart < -skew then return 'K' .. struct.pack('>I8', apart < 0 and -apart or apart) end
local version = redis.call('HGET', KEYS[1], 'version')
if (version or '') ~= ARGV[1] then
  if not version then return 'g' end
  return 'v' .. struct.pack('>I8', tonumber(version)) .. redis.call('HGET', KEYS[1], 'document')
end
version = tonumber(version or '0') + 1
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', version), 'document', ARGV[2])
return 'v' .. struct.pack('>I8', version) .. ARGV[2]
