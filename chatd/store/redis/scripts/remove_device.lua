#!lua
-- KEYS: devices subscriptions
-- Revoke a device with its token and its subscription. ARGV: prefix, user, device
-- Returns: 1 or 0 (no such device), the hash of its token or nil

local devices, device = key(ARGV[2], 'devices'), ARGV[3]
local token = redis.call('HGET', devices, 't' .. device)
local removed = redis.call('HDEL', devices, 'd' .. device)
redis.call('HDEL', devices, 'x' .. device, 't' .. device)
redis.call('HDEL', key(ARGV[2], 'subscriptions'), device)
return {removed, token}
