#!lua
-- KEYS: invite
-- Claim an invite for a user, or let go of it. ARGV: prefix, tag, 'claim' or 'release', user, now_ms
-- An invite and an account are in two slots: while an account is made with it, an invite is claimed by its name, and
-- whoever died there may come back under the same name.
-- Returns of a claim: '1' it makes an admin, '0' it does not, nil: no such invite, used, or expired

local invite, user = key(ARGV[2], 'invite'), ARGV[4]
local got = redis.call('HMGET', invite, 'admin', 'expires', 'claimed')
if ARGV[3] == 'release' then
  if got[3] == user then
    redis.call('HDEL', invite, 'claimed')
  end
  return false
end
if not got[1] or tonumber(ARGV[5]) >= tonumber(got[2]) or (got[3] and got[3] ~= user) then
  return false
end
redis.call('HSET', invite, 'claimed', user)
return got[1]
