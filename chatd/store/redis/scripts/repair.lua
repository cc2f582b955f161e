#!lua
-- KEYS: convs touching
-- What a commit is touching, or left behind, counts as changed now. ARGV: prefix, user, seconds after which nobody can
-- be at it any more

local index, touching = key(ARGV[2], 'convs'), key(ARGV[2], 'touching')
local now = number(redis.call('TIME')[1])
local top = number(redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')[2])
local moved = {}
local flat = redis.call('ZRANGE', touching, 0, -1, 'WITHSCORES')
for at = 1, #flat, 2 do
  local conv = string.match(flat[at], '^%S+')
  if not moved[conv] then
    moved[conv] = true
    top = top + 1
    redis.call('ZADD', index, top, conv)
  end
  if now - number(flat[at + 1]) > tonumber(ARGV[3]) then
    redis.call('ZREM', touching, flat[at])
  end
end
