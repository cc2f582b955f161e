#!lua flags=no-writes
-- Conversations as one user sees them.
-- ARGV: prefix, device, 'last', 'owed' or 'none' (which message comes along), {{conv, member, peer's member}, …}
-- Returns for each: head, ts_ms, delivered, read, the peer's delivered and read as told to the user, unread, position,
--   seq owed (0: none), pushed mark, 1 if either blocks the other, the entry or nil

local device, which = ARGV[2], ARGV[3]
local found = {}
for at, one in ipairs(cmsgpack.unpack(ARGV[4])) do
  local conv, me, peer = unpack(one)
  local meta, log = key(conv, 'meta'), key(conv, 'log')
  local got = redis.call('HMGET', meta, 'head', 'ts', 'delivered' .. me, 'read' .. me, 'delivered' .. peer,
    'read' .. peer, 'last' .. me, 'visible' .. peer, 'pushed' .. me, 'mark' .. me .. device, 'blocked0', 'blocked1',
    'frozen' .. peer)
  local head, delivered, read, told = number(got[1]), number(got[3]), number(got[4]), number(got[9])
  local unread, owed, entry = 0, 0, false
  local apart = (got[11] or got[12]) and 1 or 0
  if me ~= peer then
    local base = math.max(read, number(got[7]))
    unread = head - base
    if unread > 0 then
      unread = unread - redis.call('ZCOUNT', key(conv, 'hidden'), '(' .. base, '+inf')
    end
    if apart == 0 and number(got[8]) > math.max(delivered, told) then
      owed = number(got[8])
    end
  end
  if which == 'last' and head > 0 then
    entry = redis.call('XRANGE', log, id(head), id(head))[1]
  elseif which == 'owed' and owed > 0 then
    entry = redis.call('XRANGE', log, id(owed), id(owed))[1]
  end
  local peer_delivered, peer_read = number(got[5]), number(got[6])
  if apart == 1 and got[13] then
    peer_delivered, peer_read = string.match(got[13], '(%d+) (%d+)')
  end
  local position = string.match(got[10] or '0', '%d+')
  found[at] = {
    head, number(got[2]), delivered, read, number(peer_delivered), number(peer_read), unread, number(position),
    owed, told, apart, entry or false
  }
end
return found
