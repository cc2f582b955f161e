#!lua
-- KEYS: account
-- Raise when users were last seen; one without an account is left out. ARGV: prefix, {{user, ms}, …}

for _, one in ipairs(cmsgpack.unpack(ARGV[2])) do
  local account = key(one[1], 'account')
  local got = redis.call('HMGET', account, 'created', 'deleted', 'seen')
  if got[1] and not got[2] and one[2] > (got[3] and tonumber(got[3]) or -1) then
    redis.call('HSET', account, 'seen', one[2])
  end
end
