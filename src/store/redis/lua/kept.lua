-- ARGV: 1 trust domain, 2 the most bytes that are wanted. What is kept of its bundle lies under a key of its own in the slot of KEYS[1], which names all of them.
local key = KEYS[1] .. ':' .. ARGV[1]
local length = redis.pcall('STRLEN', key)
if type(length) == 'table' or length == 0 then return 'n' end
local document = redis.call('GET', key)
local mark = redis.sha1hex(document)
if length > tonumber(ARGV[2]) then return 'l' .. mark end
return 'v' .. mark .. document
