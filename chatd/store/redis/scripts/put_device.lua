#!lua
-- KEYS: devices
-- Create a device, or replace the token of an existing one. A device has the fields d (its name and birth), x (when it
-- expires, absent: never) and t (the hash of its token, absent: none), each followed by its id.
-- ARGV: prefix, user, device, d, x or '', t or ''. Returns: the hash of the token that was replaced, or nil

local devices, device, born, expires, token = key(ARGV[2], 'devices'), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local known = redis.call('HEXISTS', devices, 'd' .. device) == 1
if known and token == '' then
  return false
end
local old = redis.call('HGET', devices, 't' .. device)
if not known then
  redis.call('HSET', devices, 'd' .. device, born)
end
if expires ~= '' then
  redis.call('HSET', devices, 'x' .. device, expires)
else
  redis.call('HDEL', devices, 'x' .. device)
end
if token ~= '' then
  redis.call('HSET', devices, 't' .. device, token)
end
return old
