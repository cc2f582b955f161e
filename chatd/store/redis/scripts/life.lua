#!lua
-- KEYS: life
-- Which history this is. It begins anew with a server that may lack what was answered: it was started again and does not
-- fsync, or was a replica, or came while one that is known is no master any more.
-- ARGV: prefix, tag, format, '1' if a server that was started again may have forgotten something, name for a new history,
--   '1' if these are all that have slots, { {server, run, what it was a replica of}, … }, {server, …}: all masters
-- Returns: the format of what is stored, the name of the history

local KNOWN = 'server '
local life = key(ARGV[2], 'life')
local forgetful, all, servers = ARGV[4] == '1', ARGV[6] == '1', cmsgpack.unpack(ARGV[7])
local masters = {}
for _, server in ipairs(cmsgpack.unpack(ARGV[8])) do
  masters[KNOWN .. server] = true
end
local stored, gone, known = {}, {}, false
local flat = redis.call('HGETALL', life)
for n = 1, #flat, 2 do
  local field = flat[n]
  stored[field] = flat[n + 1]
  if string.sub(field, 1, #KNOWN) == KNOWN then
    known = true
    if not masters[field] then
      gone[#gone + 1] = field
    end
  end
end
if stored.format and stored.format ~= ARGV[3] then
  return {stored.format, stored.incarnation}
end

local anew, came = not stored.incarnation, false
for _, one in ipairs(servers) do
  local server, run, promoted = unpack(one)
  local field = KNOWN .. server
  if stored[field] then
    local old_run, old_promoted = string.match(stored[field], '^(%S*) (%S*)$')
    local again = old_run ~= run and forgetful
    anew = anew or again or (promoted ~= '' and (old_run ~= run or old_promoted ~= promoted))
  elseif known then
    came = true
    anew = anew or promoted ~= '' or #gone > 0
  end
  redis.call('HSET', life, field, run .. ' ' .. promoted)
end
if came or all then
  for _, field in ipairs(gone) do
    redis.call('HDEL', life, field)
  end
end
if anew then
  stored.incarnation = ARGV[5]
  redis.call('HSET', life, 'format', ARGV[3], 'incarnation', stored.incarnation)
end
return {ARGV[3], stored.incarnation}
