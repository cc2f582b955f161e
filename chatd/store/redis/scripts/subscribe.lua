#!lua
-- KEYS: devices subscriptions
-- Set the subscription of a device. ARGV: prefix, user, device, JSON. Returns: 1, or 0: no such device

if redis.call('HEXISTS', key(ARGV[2], 'devices'), 'd' .. ARGV[3]) == 0 then
  return 0
end
redis.call('HSET', key(ARGV[2], 'subscriptions'), ARGV[3], ARGV[4])
return 1
