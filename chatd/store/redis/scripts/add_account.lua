#!lua
-- KEYS: account
-- ARGV: prefix, user, admin, disabled, created_ms, shows_last_seen, invite ('' for none), password hash (absent: none)
-- Returns: 1 created, 0 the name is taken, 2 it was taken with this very invite

local account = key(ARGV[2], 'account')
if redis.call('EXISTS', account) == 1 then
  return (ARGV[7] ~= '' and redis.call('HGET', account, 'invite') == ARGV[7]) and 2 or 0
end
redis.call('HSET', account, 'admin', ARGV[3], 'disabled', ARGV[4], 'created', ARGV[5], 'shows', ARGV[6],
  'invite', ARGV[7])
if ARGV[8] then
  redis.call('HSET', account, 'password', ARGV[8])
end
return 1
