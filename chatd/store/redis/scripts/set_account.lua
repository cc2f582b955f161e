#!lua
-- KEYS: account
-- Change a field of an account. ARGV: prefix, user, field, value. Returns: 1, or 0: no such user

local account = key(ARGV[2], 'account')
if redis.call('EXISTS', account) == 0 or redis.call('HEXISTS', account, 'deleted') == 1 then
  return 0
end
redis.call('HSET', account, ARGV[3], ARGV[4])
return 1
