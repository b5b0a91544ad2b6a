-- ARGV: 2 task id.
local t = find(ARGV[2], true)
if not t then return reply('u', '') end
return reply('v', view(t))
