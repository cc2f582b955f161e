#!lua
-- KEYS: meta log ids
-- Messages of a history that comes from another store, with their seqs; those that are here already are passed over.
-- ARGV: prefix, conv, { {seq, member, id, ts_ms, h, body, erased}, … } with h as the log has it: see commit.lua

local conv = ARGV[2]
local meta, log, ids = key(conv, 'meta'), key(conv, 'log'), key(conv, 'ids')
local s = state_of(conv)
local before = s.head
for _, one in ipairs(cmsgpack.unpack(ARGV[3])) do
  local seq, member, uuid, ts, h, body, erased = unpack(one)
  if seq > s.head then
    if seq ~= s.head + 1 or redis.call('HSETNX', ids, member .. uuid, seq) == 0 then
      return redis.error_reply('ERR ' .. conv .. ' is not what came before of it')
    end
    redis.call('XADD', log, id(seq), 'm', member, 'i', uuid, 't', ts, 'h', h, 'b', body, unpack(erased and {'e', 1} or {}))
    s.head, s.ts, s.last[member], s.hidden = seq, ts, seq, math.abs(h)
    if h >= 0 then
      s.visible[member] = seq
    end
  end
end
if s.head > before then
  redis.call('HSET', meta, 'state', string.format(STATE, s.head, s.ts, s.last[0], s.last[1], s.visible[0], s.visible[1],
    s.delivered[0], s.read[0], s.delivered[1], s.read[1], s.hidden))
end
