#!lua flags=no-writes
-- KEYS: meta
-- ARGV: prefix, {conv, …}. Returns for each: head, 1 if either of the two blocks the other

local found = {}
for at, conv in ipairs(cmsgpack.unpack(ARGV[2])) do
  local got = redis.call('HMGET', key(conv, 'meta'), 'state', 'blocked0', 'blocked1')
  found[at] = {parsed(got[1]).head, (got[2] or got[3]) and 1 or 0}
end
return found
