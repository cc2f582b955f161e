#!lua flags=no-writes
-- KEYS: account
-- ARGV: prefix, {user, …}. Returns for each: 1 if the account is there and not deleted, '1' if it shows when it was
-- last seen, when that was or nil

local found = {}
for at, user in ipairs(cmsgpack.unpack(ARGV[2])) do
  local got = redis.call('HMGET', key(user, 'account'), 'created', 'deleted', 'shows', 'seen')
  found[at] = {(got[1] and not got[2]) and 1 or 0, got[3], got[4]}
end
return found
