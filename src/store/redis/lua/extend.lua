-- ARGV: 2 task id, deadline.
local id, deadline = unpack('>c16I8', ARGV[2])
local t = find(id, true)
if not t then return reply('u', '') end
local dead = ending(t)
if dead then return reply('e', dead) end
if deadline < t.deadline then return reply('n', pack('>I8', t.deadline)) end
if deadline > t.deadline then
  if t.n > 0 then
    local parent = find(part(t, 56 + 16 * t.n, 16))
    if deadline > parent.deadline then return reply('p', pack('>I8', parent.deadline)) end
  end
  local readable = t.readable + deadline - t.deadline
  call('SETRANGE', t.key, 36, pack('>I4I8', t.version + 1, deadline))
  call('SETRANGE', t.key, 76, pack('>I8', readable))
  call('ZADD', base .. 'd', deadline, id)
  widen(deadline)
  t = find(id, true)
end
return reply('v', view(t))
