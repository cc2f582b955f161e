#!lua
-- KEYS: meta log copy
-- Take the bodies of one member's messages. What stands in a stream stays as it is, so the log is copied without them,
-- some entries at a time; at its end the copy takes its place. Both members may be erased at a time: what is copied is
-- then copied again, without the bodies of both. ARGV: prefix, conv, member, how many entries at most
-- Returns: how many bodies went, 1 if there is more to copy

local conv, member, most = ARGV[2], ARGV[3], tonumber(ARGV[4])
local meta, log, copy = key(conv, 'meta'), key(conv, 'log'), key(conv, 'copy')
local got = redis.call('HMGET', meta, 'state', 'trimmed', 'copying', 'erased' .. member)
local s, trimmed, copying = parsed(got[1]), trimmed_of(got[2]), got[3] or ''
if s.last[number(member)] <= math.max(number(got[4]), trimmed.seq) then
  return {0, 0}
end
if not string.find(copying, member, 1, true) then
  copying = copying .. member
  redis.call('HSET', meta, 'copying', copying)
  redis.call('DEL', copy)
end
local tail = redis.call('XREVRANGE', copy, '+', '-', 'COUNT', 1)[1]
local at, hidden = trimmed.seq, trimmed.hidden
if tail and number(string.match(tail[1], '^%d+')) >= trimmed.seq then
  at, hidden = number(string.match(tail[1], '^%d+')), math.abs(number(tail[2][8]))
else
  redis.call('DEL', copy) -- all of it was trimmed meanwhile
end

local gone = 0
for _, entry in ipairs(redis.call('XRANGE', log, id(at + 1), '+', 'COUNT', most)) do
  local e = entry[2]
  local mine, erased = string.find(copying, e[2], 1, true), e[11]
  if mine and not erased then
    gone = gone + 1
  end
  local unseen = mine or number(e[8]) < 0
  hidden = unseen and hidden + 1 or hidden
  local shown = {'m', e[2], 'i', e[4], 't', e[6], 'h', unseen and -hidden or hidden, 'b', mine and '' or e[10]}
  if mine or erased then
    shown[11], shown[12] = 'e', 1
  end
  redis.call('XADD', copy, entry[1], unpack(shown))
  at = number(string.match(entry[1], '^%d+'))
end
if at < s.head then
  return {gone, 1}
end

local last = trimmed.seq > 0 and redis.call('XRANGE', copy, id(trimmed.seq), id(trimmed.seq))[1]
if last then -- it was copied first and trimmed then
  redis.call('HSET', meta, 'trimmed', string.format('%.0f %.0f %.0f', trimmed.seq, trimmed.ts, math.abs(number(last[2][8]))))
  redis.call('XTRIM', copy, 'MINID', id(trimmed.seq + 1))
end
redis.call('RENAME', copy, log)
for m = 0, 1 do
  if string.find(copying, tostring(m), 1, true) then
    s.visible[m] = 0
    redis.call('HSET', meta, 'erased' .. m, string.format('%.0f', s.last[m]))
  end
end
s.hidden = hidden
redis.call('HSET', meta, 'state', string.format(STATE, s.head, s.ts, s.last[0], s.last[1], s.visible[0], s.visible[1],
  s.delivered[0], s.read[0], s.delivered[1], s.read[1], s.hidden))
redis.call('HDEL', meta, 'copying')
return {gone, 0}
