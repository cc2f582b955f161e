#!lua
-- KEYS: meta
-- All of a conversation but its messages, in place of what is there.
-- ARGV: prefix, conv, {delivered, read of the first user, of the second}, {field, value, …}, {last seqs sent, last
--   seqs that the other may see} or {}: as the messages tell

local UNPACKED_MAX = 1000 -- even, for fields and values come in pairs
local meta, s, told, fields = key(ARGV[2], 'meta'), state_of(ARGV[2]), cmsgpack.unpack(ARGV[3]), cmsgpack.unpack(ARGV[4])
local sent = cmsgpack.unpack(ARGV[5])
if #sent > 0 then
  s.last, s.visible = {[0] = sent[1], [1] = sent[2]}, {[0] = sent[3], [1] = sent[4]}
end
local begun = redis.call('HGET', meta, 'begun') -- see begin_at.lua
redis.call('DEL', meta)
if begun then
  redis.call('HSET', meta, 'begun', begun)
end
if s.head > 0 then
  redis.call('HSET', meta, 'state', string.format(STATE, s.head, s.ts, s.last[0], s.last[1], s.visible[0], s.visible[1],
    told[1], told[2], told[3], told[4], s.hidden))
end
for first = 1, #fields, UNPACKED_MAX do
  redis.call('HSET', meta, unpack(fields, first, math.min(#fields, first + UNPACKED_MAX - 1)))
end
