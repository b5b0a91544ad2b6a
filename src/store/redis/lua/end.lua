-- ARGV: 2 task id, reason, retention, how long to remember an unknown one (0: not at all); 3 actor.
local id, reason, retention, bury = unpack('>c16BI8I8', ARGV[2])
local t = find(id, true)
if not t then
  if bury == 0 then return reply('u', '') end
  local readable = now + bury
  local leftover = call('GET', base .. 't:' .. id)
  if leftover then unlink(id, leftover) end
  call('SET', base .. 't:' .. id, string.rep('\0', 32)
    .. pack('>BBBBI4I8I8I8I8I4I8', 1, 2, reason, 0, 1, now, 0, now, 0, 0, readable) .. gen .. pack('>I2I2I4', 0, 0, 0) .. ARGV[3])
  call('ZADD', base .. 'd', readable, id)
  append(1, readable, id .. string.char(reason))
  return reply('y', at .. chain)
end
if ending(t) then return reply('a', at .. chain .. view(t)) end
local v, readable = t.v, now + retention
t.v = sub(v, 1, 32) .. pack('>BBBBI4', t.form, 1, reason, t.n, t.version + 1) .. sub(v, 41, 56) .. pack('>I8', now)
  .. sub(v, 65, 76) .. pack('>I8', readable) .. sub(v, 85, 104 + 16 * t.n + t.owner + t.facts) .. ARGV[3]
t.state, t.reason, t.ended = 1, reason, now
call('SET', t.key, t.v)
call('ZADD', base .. 'd', readable, id)
append(1, math.max(t.deadline, t.last), id .. string.char(reason))
return reply('d', at .. chain .. view(t))
