#!lua
-- KEYS: life
-- Claim an empty store for a history that comes from another one; nobody can use it meanwhile, for `life` refuses this
-- format. ARGV: prefix, tag, format, name of the history
-- Returns: the format before or nil, the name of the history before or nil

local life = key(ARGV[2], 'life')
local got = redis.call('HMGET', life, 'format', 'incarnation')
if not got[1] then
  redis.call('HSET', life, 'format', ARGV[3], 'incarnation', ARGV[4])
end
return got
