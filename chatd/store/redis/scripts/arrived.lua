#!lua
-- KEYS: meta
-- All of a conversation but its messages, in place of what is there.
-- ARGV: prefix, conv, {delivered, read of the first user, of the second}, {field, value, …}

local UNPACKED_MAX = 1000 -- even, for fields and values come in pairs
local meta, s, told, fields = key(ARGV[2], 'meta'), state_of(ARGV[2]), cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
redis.call('DEL', meta)
if s.head > 0 then
  redis.call('HSET', meta, 'state', string.format(STATE, s.head, s.ts, s.last[0], s.last[1], s.visible[0], s.visible[1],
    told[1], told[2], told[3], told[4], s.hidden))
end
for first = 1, #fields, UNPACKED_MAX do
  redis.call('HSET', meta, unpack(fields, first, math.min(#fields, first + UNPACKED_MAX - 1)))
end
