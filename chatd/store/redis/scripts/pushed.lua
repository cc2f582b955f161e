#!lua
-- KEYS: meta
-- Raise pushed marks. ARGV: prefix, {{conv, member, seq}, …}

for _, one in ipairs(cmsgpack.unpack(ARGV[2])) do
  local conv, member, seq = unpack(one)
  local meta, field = key(conv, 'meta'), 'pushed' .. member
  local got = redis.call('HMGET', meta, 'state', field)
  seq = math.min(seq, parsed(got[1]).head)
  if seq > number(got[2]) then
    redis.call('HSET', meta, field, seq)
  end
end
