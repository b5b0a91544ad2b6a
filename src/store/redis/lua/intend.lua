-- ARGV: 1 intent id, 2 intent. The first one under an id stays.
redis.call('HSETNX', KEYS[1], ARGV[1], ARGV[2])
return ''
