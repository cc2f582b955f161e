#!lua flags=no-writes
-- KEYS: convs
-- A page of a user's index of conversations. ARGV: prefix, user, limit, newer than, older than (0: a first page), shown
-- Numbers above the newest change are of another history and count as absent.
-- Returns: newer than, shown, {conv, change, …} with one more than the limit if there is more

local index, limit = key(ARGV[2], 'convs'), tonumber(ARGV[3])
local newer, older, shown = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local top = number(redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')[2])
if older == 0 or math.max(newer, older, shown) > top then
  older, shown = top + 1, top
end
if newer > top then
  newer = 0
end
local names = redis.call('ZRANGE', index, string.format('(%.0f', older), string.format('(%.0f', newer), 'BYSCORE', 'REV',
  'LIMIT', 0, limit + 1, 'WITHSCORES')
return {newer, shown, names}
