#!lua
-- KEYS: subscriptions
-- Remove the subscription of a device. ARGV: prefix, user, device, endpoint that it must have (absent: any)
-- Returns: how many there were

local subscriptions = key(ARGV[2], 'subscriptions')
local kept = redis.call('HGET', subscriptions, ARGV[3])
if not kept or (ARGV[4] and cjson.decode(kept).endpoint ~= ARGV[4]) then
  return 0
end
return redis.call('HDEL', subscriptions, ARGV[3])
