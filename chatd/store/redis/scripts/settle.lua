#!lua
-- KEYS: convs touching
-- After a commit in a cluster: what changed moves to the top of its user's index, and the notes of `touch` go.
-- ARGV: prefix, user, ' token', {{conv, 1 if it changed}, …}; with a token of '' only what is in the index moves

local user, token = ARGV[2], ARGV[3]
local index = key(user, 'convs')
local top = number(redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')[2])
for _, one in ipairs(cmsgpack.unpack(ARGV[4])) do
  local conv = one[1]
  if one[2] == 1 and (token ~= '' or redis.call('ZSCORE', index, conv)) then
    top = top + 1
    redis.call('ZADD', index, top, conv)
  end
  if token ~= '' then
    redis.call('ZREM', key(user, 'touching'), conv .. token)
  end
end
