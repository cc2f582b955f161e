#!lua flags=no-writes
-- KEYS: log meta
-- A piece of a log. ARGV: prefix, conv, 'after' or 'before', seq (after it, before it), limit, bytes_max
-- Returns the field `trimmed` or nil, and entries, those nearest to the anchor first: as many as fit, at least one.

local CHUNK = 64
local log, ascending = key(ARGV[2], 'log'), ARGV[3] == 'after'
local anchor, limit, room = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local found, trimmed = {}, redis.call('HGET', key(ARGV[2], 'meta'), 'trimmed')
while #found < limit do
  local count, part = math.min(CHUNK, limit - #found)
  if ascending then
    part = redis.call('XRANGE', log, id(anchor + 1), '+', 'COUNT', count)
  elseif anchor > 1 then
    part = redis.call('XREVRANGE', log, id(anchor - 1), '-', 'COUNT', count)
  else
    part = {}
  end
  for _, entry in ipairs(part) do
    room = room - #entry[2][10]
    if room < 0 and #found > 0 then
      return {trimmed, found}
    end
    found[#found + 1] = entry
  end
  if #part < count then
    return {trimmed, found}
  end
  anchor = number(string.match(part[#part][1], '^%d+'))
end
return {trimmed, found}
