#!lua
-- KEYS: meta log ids
-- A conversation that comes from another store, where it was trimmed or something in it erased, begins behind what went.
-- If it came in part when less was trimmed, or other messages were erased, it begins anew.
-- ARGV: prefix, conv, seq, ts_ms: of the last message that was trimmed (0: none was), how many are erased

local conv, seq, s = ARGV[2], tonumber(ARGV[3]), state_of(ARGV[2])
local meta, log, ids = key(conv, 'meta'), key(conv, 'log'), key(conv, 'ids')
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
local begins = oldest and number(string.match(oldest[1], '^%d+')) or s.head + 1
if s.head > 0 and begins == seq + 1 and (redis.call('HGET', meta, 'begun') or '0') == ARGV[5] then
  return
end
redis.call('DEL', meta, log, ids)
redis.call('HSET', meta, 'begun', ARGV[5])
if seq > 0 then
  redis.call('HSET', ids, 'trimmed', 1) -- as trim.lua leaves it
  redis.call('XADD', log, id(seq), 'm', 0)
  redis.call('XTRIM', log, 'MAXLEN', 0)
  redis.call('HSET', meta, 'state', string.format(STATE, seq, tonumber(ARGV[4]), 0, 0, 0, 0, 0, 0, 0, 0, 0))
end
