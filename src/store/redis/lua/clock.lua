-- The server's time in milliseconds; no answer from a server that may not write.
local time = redis.call('TIME')
return struct.pack('>I8', time[1] * 1000 + math.floor(time[2] / 1000))
