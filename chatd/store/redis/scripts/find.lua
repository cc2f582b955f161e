#!lua
-- KEYS: meta log ids
-- One message by its id; a fence keeps out this writer's commits up to an epoch that may still be on their way.
-- ARGV: prefix, conv, writer, epoch (0: nothing is on its way), seconds that a fence stands, member .. id,
--   '1' to write something in any case: who waits for replicas waits for his own last write, and so for all before it
-- Returns the entry of the log, or nil.

local conv, writer, epoch, stands_s, name = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), ARGV[6]
local meta, field = key(conv, 'meta'), 'fence' .. writer
if epoch > number(redis.call('HGET', meta, field)) then
  local now = number(redis.call('TIME')[1])
  for _, old in ipairs(redis.call('HKEYS', meta)) do
    local other = string.match(old, '^built(.+)$') -- nobody waits behind a fence of yesterday
    if other and now - number(redis.call('HGET', meta, old)) > stands_s then
      redis.call('HDEL', meta, old, 'fence' .. other)
    end
  end
  redis.call('HSET', meta, 'fenced', 1, field, epoch, 'built' .. writer, now)
end
local seq = redis.call('HGET', key(conv, 'ids'), name)
if seq and ARGV[7] == '1' then
  redis.call('HSET', meta, 'state', redis.call('HGET', meta, 'state'))
end
return seq and redis.call('XRANGE', key(conv, 'log'), id(number(seq)), id(number(seq)))[1]
