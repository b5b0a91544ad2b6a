-- ARGV: 2 task id, version, limit, cell (kind, grant, issued, expires); 3 the name of its key among fences.
local id, version, limit, kind, expires = unpack('>c16I4I4BxxxxxI4', ARGV[2])
local t = find(id)
if not t then return reply('u', '') end
local dead = ending(t)
if dead then return reply('e', dead) end
if key_fenced(ARGV[3]) then return reply('k', '') end
if t.version ~= version then return reply('s', '') end
if expires * 1000 > t.deadline then return reply('d', pack('>I8', t.deadline)) end
local number = t.count
if number >= limit then return reply('x', '') end
local latest = math.max(t.last, expires * 1000)
local chunk = base .. 'c:' .. id .. pack('>I4', floor(number / 64))
call('SETRANGE', chunk, number % 64 * 10, sub(ARGV[2], 25))
-- The one before in the same chunk has seen to it, unless it expires sooner.
if latest > t.last or number % 64 == 0 then call('PEXPIRE', chunk, latest - now + slack) end
-- From its first certificate on the task is of form 1.
if kind ~= 1 and t.form ~= 1 then call('SETRANGE', t.key, 32, '\1') end
call('SETRANGE', t.key, 64, pack('>I8I4', latest, number + 1))
return reply('r', pack('>I4I8', number, t.began) .. gen)
