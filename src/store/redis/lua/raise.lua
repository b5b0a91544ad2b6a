-- ARGV: 2 intent id, moment, block until, forget at; 3 target; 4 actor.
local id, moment, block, forget = unpack('>c16I8I8I8', ARGV[2])
local standing = call('HGET', base .. 'f', ARGV[3])
if standing then
  local form, cut, earlier, block_before, forget_before, before = unpack('>BI8I8I8I8c16', standing)
  if form ~= 1 then return redis.error_reply('DAMAGED fence') end
  if forget_before > now then
    block, forget = math.max(block, block_before), math.max(forget, forget_before)
    -- Whatever their order: ids are made by clocks, and clocks step back.
    if before == id then
      if block > block_before or forget > forget_before then
        call('HSET', base .. 'f', ARGV[3], pack('>BI8I8I8I8', 1, cut, earlier, block, forget) .. sub(standing, 34))
        call('ZADD', base .. 'e', forget, ARGV[3])
      end
      return reply('v', at .. chain)
    end
  end
end
-- Kept while anything that it has ended could still live, also where it is raised late.
forget = math.max(forget, horizon())
append(3, forget, id .. pack('>I8I8', moment, block) .. ARGV[3])
call('HSET', base .. 'f', ARGV[3], pack('>BI8I8I8I8', 1, seq, moment, block, forget) .. id .. ARGV[4])
call('ZADD', base .. 'e', forget, ARGV[3])
call('SETRANGE', KEYS[1], 49, pack('>I2', math.min(call('HLEN', base .. 'f'), 65535)))
return reply('v', at .. chain)
