#!lua
-- KEYS: meta
-- Where a new device starts. ARGV: prefix, device, '1' if the starts replace what is there,
--   {{conv, member, messages of history}, …}

local device, again = ARGV[2], ARGV[3] == '1'
for _, one in ipairs(cmsgpack.unpack(ARGV[4])) do
  local conv, member, history = unpack(one)
  local meta, field = key(conv, 'meta'), 'mark' .. member .. device
  local start = math.max(0, state_of(conv).head - history)
  local position, delivered, read = string.match(redis.call('HGET', meta, field) or '0 0 0', '(%d+) (%d+) (%d+)')
  if not again then
    start = math.max(start, number(position))
  end
  redis.call('HSET', meta, field, string.format('%.0f %s %s', start, delivered, read))
end
