#!lua
-- KEYS: account devices subscriptions
-- Delete a user with its devices and subscriptions; the name stays taken. ARGV: prefix, user
-- Returns: the hashes of its tokens, or nil: no such user

local account, devices = key(ARGV[2], 'account'), key(ARGV[2], 'devices')
if redis.call('EXISTS', account) == 0 or redis.call('HEXISTS', account, 'deleted') == 1 then
  return false
end
local tokens, flat = {}, redis.call('HGETALL', devices)
for at = 1, #flat, 2 do
  if string.sub(flat[at], 1, 1) == 't' then
    tokens[#tokens + 1] = flat[at + 1]
  end
end
redis.call('HSET', account, 'deleted', 1)
redis.call('DEL', devices, key(ARGV[2], 'subscriptions'))
return tokens
