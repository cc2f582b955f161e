#!lua
-- KEYS: meta
-- Block or unblock in one conversation.
-- ARGV: prefix, conv, member who blocks, the other's, '1' to block, '1' if the users' keys are in reach, {user, …}
-- While either blocks, each is told the other's marks as they were when the first block began; who sees them move on
-- again sees a change.

local conv, me, peer, on = ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local meta = key(conv, 'meta')
local state = state_of(conv)
if on then
  if redis.call('HEXISTS', meta, 'frozen0') == 0 then
    redis.call('HSET', meta, 'frozen0', string.format('%.0f %.0f', state.delivered[0], state.read[0]),
      'frozen1', string.format('%.0f %.0f', state.delivered[1], state.read[1]))
  end
  redis.call('HSET', meta, 'blocked' .. me, 1)
  return
end
redis.call('HDEL', meta, 'blocked' .. me)
if redis.call('HEXISTS', meta, 'blocked' .. peer) == 0 then
  redis.call('HDEL', meta, 'frozen0', 'frozen1')
end
if state.head > 0 and ARGV[6] == '1' then
  local change = redis.call('INCR', prefix .. 'changes')
  for _, user in ipairs(cmsgpack.unpack(ARGV[7])) do
    redis.call('ZADD', key(user, 'convs'), change, conv)
  end
end
