#!lua
-- KEYS: meta log ids
-- Delete the oldest messages of a conversation, with their ids. ARGV: prefix, conv, older than (ms), at most so many
-- Returns: how many

local conv, older_than, most = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local log, ids = key(conv, 'log'), key(conv, 'ids')
local oldest = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
if not oldest or number(oldest[2][6]) >= older_than then
  return 0
end
local names, last = {}, nil
for _, entry in ipairs(redis.call('XRANGE', log, '-', '+', 'COUNT', most)) do
  if number(entry[2][6]) >= older_than then
    break
  end
  last = entry
  names[#names + 1] = entry[2][2] .. entry[2][4]
end
local seq = number(string.match(last[1], '^%d+'))
redis.call('HSET', ids, 'trimmed', 1) -- no message is called so: what would be empty would not exist any more
redis.call('HDEL', ids, unpack(names))
redis.call('XTRIM', log, 'MINID', id(seq + 1))
redis.call('HSET', key(conv, 'meta'), 'trimmed',
  string.format('%.0f %.0f %.0f', seq, number(last[2][6]), math.abs(number(last[2][8]))))
return #names
