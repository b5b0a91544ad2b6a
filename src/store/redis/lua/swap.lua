-- Compare and set. ARGV: 1 the version expected ('' if nothing is stored), 2 document. Answers with the version and document that are stored then.
local version = redis.call('HGET', KEYS[1], 'version')
if (version or '') ~= ARGV[1] then
  if not version then return '' end
  return struct.pack('>I8', tonumber(version)) .. redis.call('HGET', KEYS[1], 'document')
end
version = tonumber(version or '0') + 1
redis.call('HSET', KEYS[1], 'version', string.format('%.0f', version), 'document', ARGV[2])
return struct.pack('>I8', version) .. ARGV[2]
