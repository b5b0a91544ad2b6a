-- Every writing step leaves its time in the partition, also one that refuses, so that time never runs back.
if now > clock then call('SETRANGE', KEYS[1], 41, pack('>I8', now)) end
