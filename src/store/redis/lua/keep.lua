-- Compare and set. ARGV: 1 trust domain, 2 SHA-1 of the document that is expected ('' for none), 3 the document ('' takes it away). See kept.lua. Whether what was expected lay there.
local key = KEYS[1] .. ':' .. ARGV[1]
-- Of another type, or empty: nothing of ours, and written over.
local held = redis.pcall('GET', key)
if type(held) == 'table' then held = false end
if (held and held ~= '' and redis.sha1hex(held) or '') ~= ARGV[2] then return 'n' end
if ARGV[3] == '' then
  redis.call('DEL', key)
  redis.call('HDEL', KEYS[1], ARGV[1])
else
  redis.call('SET', key, ARGV[3])
  redis.call('HSET', KEYS[1], ARGV[1], '')
end
return 'y'
