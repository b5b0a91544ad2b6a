-- ARGV: 2 task id, 3 value (idempotency and record; sequence and generation are filled in here).
local id, value = ARGV[2], ARGV[3]
local n, deadline = unpack('>xxxBxxxxI8', value, 33)
local owner_length, domain, facts = unpack('>I2I2I4', value, 97)
local there = find(id, true)
if there then
  local same = there.state ~= 2 and there.n == n and there.owner == owner_length and there.facts == facts
    and part(there, 72, 16 * n + owner_length + facts) == sub(value, 105)
  if not same then return redis.error_reply('DAMAGED another task has this id') end
  return reply('b', view(there))
end
local key = sub(value, 1, 16)
if key ~= NOBODY then
  local code, earlier = replayed(key, sub(value, 17, 32))
  if code then return reply(code, earlier) end
end
local owner = sub(value, 105 + 16 * n, 104 + 16 * n + owner_length)
if fences > 0 then
  local blocked = 0
  for _, fence in ipairs(fences_on(owner, domain)) do
    if fence and fence.block > blocked then blocked = fence.block end
  end
  if blocked > now then return reply('f', pack('>I8', blocked)) end
end
if n > 0 then
  local parent = find(sub(value, 89 + 16 * n, 104 + 16 * n))
  if not parent then return reply('n', '') end
  local dead = ending(parent)
  if dead then return reply('e', dead) end
end
value = sub(value, 1, 48) .. pack('>I8', seq) .. sub(value, 57, 84) .. gen .. sub(value, 97)
call('SET', base .. 't:' .. id, value)
call('ZADD', base .. 'd', deadline, id)
widen(deadline)
call('ZADD', base .. 'o:' .. sub(redis.sha1hex(owner), 1, 16), 0, id)
if key ~= NOBODY then call('HSET', base .. 'i', key, id) end
-- By a clock that is ahead of the caller's a short task may be over.
local over = deadline <= now and find(id, true)
return reply('b', over and view(over) or '\0' .. pack('>I4', #value - 32) .. sub(value, 33))
