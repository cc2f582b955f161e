#!lua
-- Conversations of a user's index have changed. ARGV: prefix, user, {conv, …}; those not in the index stay out.

local index = key(ARGV[2], 'convs')
for _, conv in ipairs(cmsgpack.unpack(ARGV[3])) do
  if redis.call('ZSCORE', index, conv) then
    redis.call('ZADD', index, number(redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')[2]) + 1, conv)
  end
end
