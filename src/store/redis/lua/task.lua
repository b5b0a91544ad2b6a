-- Reading tasks and judging whether they live. The value is 32 bytes of idempotency (key, request) and then the record.
local NOBODY = string.rep('\0', 16)

-- The task, or nil if it is not there or past its readable time. Without `all`, only the head is read at first.
local function find(id, all)
  local key = base .. 't:' .. id
  local v = call('GETRANGE', key, 0, all and -1 or 103)
  if v == '' then return nil end
  -- Form 2: no certificate was ever recorded for it; 1: one was, or may have been.
  local form, state, reason, n, version, deadline, began, ended, last, count, readable, generation, owner, domain, facts =
    unpack('>BBBBI4I8I8I8I8I4I8c12I2I2I4', v, 33)
  if form ~= 1 and form ~= 2 then error(redis.error_reply('DAMAGED task')) end
  if readable <= now then return nil end
  return {
    id = id, key = key, v = v, whole = all, form = form, state = state, reason = reason, n = n, version = version, deadline = deadline, began = began,
    ended = ended, last = last, count = count, readable = readable, gen = generation, owner = owner, domain = domain, facts = facts,
  }
end

-- Bytes of the record, from an offset; to its end without a length.
local function part(t, from, length)
  if not t.whole and (not length or #t.v < 32 + from + length) then
    t.v, t.whole = call('GET', t.key), true
  end
  return sub(t.v, 33 + from, length and 32 + from + length or -1)
end

local function owner_of(t)
  return part(t, 72 + 16 * t.n, t.owner)
end

-- The fences on an owner and on its trust domain; false where there is none, or none any more.
local function fences_on(owner, domain)
  local found = call('HMGET', base .. 'f', 'w:' .. owner, 't:' .. sub(owner, 10, 9 + domain))
  for i = 1, 2 do
    if found[i] then
      local form, cut, moment, block, forget = unpack('>BI8I8I8I8', found[i])
      if form ~= 1 then error(redis.error_reply('DAMAGED fence')) end
      found[i] = forget > now and { cut = cut, moment = moment, block = block, by = sub(found[i], 50) }
    end
  end
  return found
end

-- What has ended a task, its ancestors aside: moment, reason, actor; nil while nothing has.
local function own_end(t)
  if t.state ~= 0 then return t.ended, t.reason, part(t, 72 + 16 * t.n + t.owner + t.facts) end
  if t.gen ~= gen then return unpack('>I6', gen), 7, '' end
  if fences > 0 then
    local found = fences_on(owner_of(t), t.domain)
    for i = 1, 2 do
      if found[i] and t.began < found[i].cut then return found[i].moment, 4 + i, found[i].by end
    end
  end
  if t.deadline <= now then return t.deadline, 3, '' end
end

-- What has ended a task, ancestors included, as it is told to the caller; nil while it lives.
local function ending(t)
  local moment, reason, by = own_end(t)
  local above = NOBODY
  for i = 1, moment and 0 or t.n do
    above = part(t, 56 + 16 * i, 16)
    local ancestor = find(above)
    reason = 4
    if ancestor then
      local _
      moment, _, by = own_end(ancestor)
    else
      moment, by = 0, ''
    end
    if moment then break end
  end
  if not moment then return nil end
  return pack('>BI8', reason, moment) .. above .. pack('>I2', #by) .. by
end

-- Status and record. The task must have been found with `all`.
local function view(t)
  local record = sub(t.v, 33)
  return (ending(t) or '\0') .. pack('>I4', #record) .. record
end

-- Takes away what points to a task that is to be forgotten, given its value.
local function unlink(id, v)
  local n, owner = string.byte(v, 36), unpack('>I2', v, 97)
  if owner > 0 then
    owner = sub(v, 105 + 16 * n, 104 + 16 * n + owner)
    call('ZREM', base .. 'o:' .. sub(redis.sha1hex(owner), 1, 16), id)
  end
  local key = sub(v, 1, 16)
  if key ~= NOBODY and call('HGET', base .. 'i', key) == id then call('HDEL', base .. 'i', key) end
end

-- What an idempotency key and the digest of a request stand for: 'p' and the task that they began, 'k' if it was another request; nil if
-- the key is free.
local function replayed(key, request)
  local earlier = call('HGET', base .. 'i', key)
  local t = earlier and find(earlier)
  if not t or t.gen ~= gen or t.state == 2 then return nil end
  if sub(t.v, 17, 32) == request then return 'p', earlier end
  return 'k', ''
end
