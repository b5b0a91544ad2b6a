-- A plain SET, as a script because it may not be refused when memory is full.
redis.call('SET', KEYS[1], ARGV[1])
return ''
