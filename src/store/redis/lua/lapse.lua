-- ARGV: 2 limit. Writes nothing, not even the time, where nothing is due. Answers how many tasks were forgotten, whether there is more, when the next is due (0: never), and the tasks that ended here.
local limit = tonumber(ARGV[2])
local ended, moved, gone, forgotten = {}, {}, {}, 0

local function forget(id)
  local v = call('GET', base .. 't:' .. id)
  gone[#gone + 1] = id
  if not v then return end
  forgotten = forgotten + 1
  call('DEL', base .. 't:' .. id)
  unlink(id, v)
end

local function write_end(t, moment, reason, by)
  call('SETRANGE', t.key, 33, pack('>BBBI4I8I8I8', 1, reason, t.n, t.version + 1, t.deadline, t.began, moment))
  if by ~= '' then call('APPEND', t.key, by) end
  local owner = owner_of(t)
  ended[#ended + 1] = t.id .. pack('>I8I2', t.deadline, #owner) .. owner
end

local function tick()
  if now > clock then
    call('SETRANGE', KEYS[1], 41, pack('>I8', now))
    clock = now
  end
end

local due = call('ZRANGEBYSCORE', base .. 'd', '-inf', now, 'LIMIT', 0, limit)
if #due > 0 then tick() end
for _, id in ipairs(due) do
  local t = find(id)
  local score = t and t.readable
  if not t then
    forget(id)
  elseif t.state == 0 then
    local moment, reason, by = own_end(t)
    if moment then write_end(t, moment, reason, by) else score = t.deadline end
  end
  if score then
    moved[#moved + 1] = score
    moved[#moved + 1] = id
  end
end
local spread = _G.unpack
if #moved > 0 then call('ZADD', base .. 'd', spread(moved)) end
if #gone > 0 then call('ZREM', base .. 'd', spread(gone)) end

if fences > 0 then
  local over = call('ZRANGEBYSCORE', base .. 'e', '-inf', now, 'LIMIT', 0, limit)
  if #over > 0 then
    tick()
    call('HDEL', base .. 'f', spread(over))
    call('ZREM', base .. 'e', spread(over))
    call('SETRANGE', KEYS[1], 49, pack('>I2', math.min(call('HLEN', base .. 'f'), 65535)))
  end
end

-- A walk over the history, some entries at a time, with a rest after each round: entries may outlive later ones. Where all of them are
-- seen at one look, nothing needs to be written to look again.
local cursor, rest = unpack('>I8I8', meta, 52)
if now >= rest then
  local entries = call('XRANGE', base .. 'h', string.format('%.0f-0', cursor), '+', 'COUNT', 100)
  local over = {}
  for _, entry in ipairs(entries) do
    if unpack('>I8', entry[2][2], 11) <= now then over[#over + 1] = entry[1] end
  end
  if #over > 0 then call('XDEL', base .. 'h', spread(over)) end
  if #entries == 100 then
    cursor = tonumber(string.match(entries[100][1], '^%d+')) + 1
    call('SETRANGE', KEYS[1], 51, pack('>I8', cursor))
  elseif cursor > 0 then
    call('SETRANGE', KEYS[1], 51, pack('>I8I8', 0, now + 60000))
  end
end

local first = call('ZRANGE', base .. 'd', 0, 0, 'WITHSCORES')
local next_due = tonumber(first[2] or '0')
return reply('l', pack('>I4BI8', forgotten, first[2] and next_due <= now and 1 or 0, next_due) .. table.concat(ended))
