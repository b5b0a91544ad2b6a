-- ARGV: 2 idempotency key, digest of the request.
local code, earlier = replayed(sub(ARGV[2], 1, 16), sub(ARGV[2], 17, 32))
return reply(code or 'u', earlier or '')
