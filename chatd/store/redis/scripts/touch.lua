#!lua
-- KEYS: touching
-- In a cluster a user's index and a conversation are on two servers. Before a commit its user's slot notes what it is
-- about to touch, with the server's time, so that whoever dies in between hides nothing from a listing.
-- ARGV: prefix, user, {'conv token', …}

local now = redis.call('TIME')[1]
for _, entry in ipairs(cmsgpack.unpack(ARGV[3])) do
  redis.call('ZADD', key(ARGV[2], 'touching'), now, entry)
end
