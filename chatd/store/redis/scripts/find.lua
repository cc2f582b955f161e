#!lua
-- One message by its id; a fence keeps out this writer's commits up to an epoch that may still be on their way.
-- ARGV: prefix, conv, writer, epoch (0: nothing is on its way), seconds that the fence stands, member .. id
-- Returns the entry of the log, or nil.

local conv, writer, epoch, stands_s, name = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6]
local fence = key(conv, 'fence')
if epoch > number(redis.call('HGET', fence, writer)) then
  redis.call('HSET', key(conv, 'meta'), 'fenced', 1)
  redis.call('HSET', fence, writer, epoch)
  redis.call('EXPIRE', fence, stands_s)
end
local seq = redis.call('HGET', key(conv, 'ids'), name)
return seq and redis.call('XRANGE', key(conv, 'log'), id(number(seq)), id(number(seq)))[1]
