-- Adds an entry to the partition's history. Kinds: 1 end, 2 credential, 3 fence, 4 generation. It is kept for a while longer than until `over`, when nothing that it
-- has ended lives any more: clocks of brokers run apart, and so do those of verifiers (`HISTORY_MARGIN` in src/revoke/feed.rs).
local margin = 10000
local function unhex(text)
  return (string.gsub(text, '..', function(two) return string.char(tonumber(two, 16)) end))
end

local function append(kind, over, what)
  seq = seq + 1
  local entry = pack('>BBI8I8', 1, kind, now, math.min(over + margin, 9007199254740991)) .. what
  chain = unhex(redis.sha1hex(chain .. entry))
  at = gen .. pack('>I8', seq)
  call('XADD', base .. 'h', string.format('%.0f-0', seq), 'e', entry .. chain)
  call('SETRANGE', KEYS[1], 1, at .. chain .. pack('>I8', now))
  -- A nudge, of which nothing depends; so it may fail.
  redis.pcall('PUBLISH', sub(base, 1, -6) .. 'nudge', '')
end
