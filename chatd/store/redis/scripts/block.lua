#!lua
-- Block or unblock in one conversation. ARGV: prefix, conv, member who blocks, the other's, '1' to block
-- While either blocks, each is told the other's marks as they were when the first block began.

local meta, me, peer, on = key(ARGV[2], 'meta'), ARGV[3], ARGV[4], ARGV[5] == '1'
if on then
  if redis.call('HEXISTS', meta, 'frozen0') == 0 then
    local got = redis.call('HMGET', meta, 'delivered0', 'read0', 'delivered1', 'read1')
    redis.call('HSET', meta, 'frozen0', string.format('%.0f %.0f', number(got[1]), number(got[2])),
      'frozen1', string.format('%.0f %.0f', number(got[3]), number(got[4])))
  end
  redis.call('HSET', meta, 'blocked' .. me, 1)
else
  redis.call('HDEL', meta, 'blocked' .. me)
  if redis.call('HEXISTS', meta, 'blocked' .. peer) == 0 then
    redis.call('HDEL', meta, 'frozen0', 'frozen1')
  end
end
