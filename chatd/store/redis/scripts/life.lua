#!lua
-- KEYS: life
-- Which history this is. A server that was started again and may have forgotten what it answered begins another one.
-- ARGV: prefix, tag, format, run id of the server, '1' if another one begins another history, name for a new history
-- Returns: the format of what is stored, the name of the history

local life = key(ARGV[2], 'life')
local got = redis.call('HMGET', life, 'format', 'incarnation', 'run')
if got[1] and got[1] ~= ARGV[3] then
  return {got[1], got[2]}
end
if not got[2] or (ARGV[5] == '1' and got[3] and got[3] ~= ARGV[4]) then
  got[2] = ARGV[6]
  redis.call('HSET', life, 'format', ARGV[3], 'incarnation', got[2])
end
redis.call('HSET', life, 'run', ARGV[4])
return {ARGV[3], got[2]}
