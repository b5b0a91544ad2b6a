-- Begins every step on a partition. KEYS[1] is the partition's meta key; ARGV[1] is the caller's clock, the skew that it bears, the
-- slack of time-outs, and the generation and sequence that it remembers (zeros: none). Refusals: U unborn, R rolled back, K clocks apart.
local call, pack, unpack, sub, floor = redis.call, struct.pack, struct.unpack, string.sub, math.floor
local now, skew, slack, known = unpack('>I8I8I8c20', ARGV[1])
local server = call('TIME')
server = server[1] * 1000 + floor(server[2] / 1000)
local apart = now - server
if apart > skew or apart < -skew then return 'K' .. pack('>I8', apart < 0 and -apart or apart) end
local meta = call('GET', KEYS[1])
if not meta then return 'U' end
local format, gen, seq, chain, clock, fences = unpack('>Bc12I8c20I8I2', meta)
if format ~= 1 then return redis.error_reply('DAMAGED meta') end
local at = sub(meta, 2, 21)
if at ~= known then
  local x1, x2, x3 = unpack('>I6I6I8', known)
  local y1, y2 = unpack('>I6I6', gen)
  if y1 < x1 or (y1 == x1 and (y2 < x2 or (y2 == x2 and seq < x3))) then return 'R' end
end
-- Clocks that ran ahead together have left a time that is not yet: nothing is judged by it. A new generation puts it right.
if clock - server > skew then return 'K' .. pack('>I8', clock - server) end
if clock > now then now = clock end
local base = sub(KEYS[1], 1, -2)

-- The answer; with the partition's position where it is not the one that the caller remembers.
local function reply(code, payload)
  if at == known then return code .. '\0' .. payload end
  return code .. '\1' .. at .. chain .. payload
end
