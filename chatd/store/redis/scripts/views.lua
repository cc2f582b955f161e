#!lua flags=no-writes
-- KEYS: meta log
-- Conversations as one user sees them.
-- ARGV: prefix, device, 'last', 'owed' or 'none' (which message comes along), {{conv, member, peer's member}, …}
-- Returns for each: head, ts_ms, delivered, read, the peer's delivered and read as told to the user, unread, position,
--   seq owed (0: none), pushed mark, 1 if either blocks the other, when the last message was sent if it was trimmed
--   (else 0), the entry or nil

local device, which = ARGV[2], ARGV[3]
local found = {}
for at, one in ipairs(cmsgpack.unpack(ARGV[4])) do
  local conv, me, peer = unpack(one)
  local meta, log = key(conv, 'meta'), key(conv, 'log')
  local got = redis.call('HMGET', meta, 'state', 'pushed' .. me, 'mark' .. me .. device, 'blocked0', 'blocked1',
    'frozen' .. peer, 'trimmed')
  local state, trimmed = parsed(got[1]), trimmed_of(got[7])
  local head, delivered, read, told = state.head, state.delivered[me], state.read[me], number(got[2])
  local unread, owed, entry = 0, 0, false
  local apart = (got[4] or got[5]) and 1 or 0
  if me ~= peer then
    local base = math.max(read, state.last[me], trimmed.seq)
    unread = head - base
    if unread > 0 and state.hidden > 0 then -- all above the base are the peer's
      local entry_of_base = base > trimmed.seq and redis.call('XRANGE', log, id(base), id(base))[1]
      unread = unread - state.hidden + (entry_of_base and math.abs(number(entry_of_base[2][8])) or trimmed.hidden)
    end
    if apart == 0 and state.visible[peer] > math.max(delivered, told, trimmed.seq) then
      owed = state.visible[peer]
    end
  end
  if which == 'last' and head > 0 then
    entry = redis.call('XRANGE', log, id(head), id(head))[1]
  elseif which == 'owed' and owed > 0 then
    entry = redis.call('XRANGE', log, id(owed), id(owed))[1]
  end
  local peer_delivered, peer_read = state.delivered[peer], state.read[peer]
  if apart == 1 and got[6] then
    peer_delivered, peer_read = string.match(got[6], '(%d+) (%d+)')
  end
  local position = string.match(got[3] or '0', '%d+')
  found[at] = {
    head, state.ts, delivered, read, number(peer_delivered), number(peer_read), unread, number(position),
    owed, told, apart, head <= trimmed.seq and trimmed.ts or 0, entry or false
  }
end
return found
