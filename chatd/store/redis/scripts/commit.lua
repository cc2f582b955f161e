#!lua
-- Drafts become messages and marks rise, in all conversations given or, when a fence stands before one, in none.
-- ARGV: prefix, writer, epoch, '1' if the users' keys are in reach, work in MessagePack:
--   { {conv, {user, …}, bucket, {{member, id, body, ts_ms}, …}, {{member, device, delivered, read}, …}}, … }
-- Returns in MessagePack, or 'fenced':
--   { {{{seq, ts_ms, flags}, …}, {{delivered, read, grew} or false for each member}, private, changed, began}, … }
--   flags: 1 a duplicate, 2 another body, 4 hidden

local FIELDS = {
  'head', 'ts', 'blocked0', 'blocked1', 'fenced', 'last0', 'last1', 'visible0', 'visible1',
  'delivered0', 'read0', 'delivered1', 'read1'
}
local writer, epoch, everywhere = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local work = cmsgpack.unpack(ARGV[5])

local function load(conv)
  local got = redis.call('HMGET', key(conv, 'meta'), unpack(FIELDS))
  return {
    meta = key(conv, 'meta'), log = key(conv, 'log'), ids = key(conv, 'ids'),
    head = number(got[1]), ts = number(got[2]),
    blocked = {[0] = got[3] and true, [1] = got[4] and true}, -- [0]: the first of the two blocks the other
    fenced = got[5],
    last = {[0] = number(got[6]), [1] = number(got[7])},
    visible = {[0] = number(got[8]), [1] = number(got[9])},
    delivered = {[0] = number(got[10]), [1] = number(got[12])},
    read = {[0] = number(got[11]), [1] = number(got[13])},
    set = {}
  }
end

local function append(conv, state, own, draft)
  local member, uuid, body, ts = unpack(draft)
  local seq = state.head + 1
  if redis.call('HSETNX', state.ids, member .. uuid, seq) == 0 then
    seq = number(redis.call('HGET', state.ids, member .. uuid))
    local entry = redis.call('XRANGE', state.log, id(seq), id(seq))[1]
    if not entry then
      return {seq, 0, 1} -- trimmed: what it said is not known any more
    end
    local first = entry[2]
    if first[10] ~= body then
      return {0, 0, 2}
    end
    return {seq, number(first[6]), 1 + 4 * number(first[8])}
  end
  local hidden = (not own and state.blocked[1 - member]) and 1 or 0
  ts = math.max(ts, state.ts)
  redis.call('XADD', state.log, id(seq), 'm', member, 'i', uuid, 't', ts, 'h', hidden, 'b', body)
  state.head, state.ts, state.last[member], state.appended = seq, ts, seq, true
  if hidden == 1 then
    redis.call('ZADD', key(conv, 'hidden'), seq, seq)
  else
    state.visible[member] = seq
  end
  return {seq, ts, 4 * hidden}
end

-- A mark is kept as "position delivered read". What was loaded or raised in this call is remembered in `marks`.
local function advance(state, marks, one)
  local member, device, delivered, read = unpack(one)
  local field = 'mark' .. member .. device
  local mark = marks[field]
  if not mark then
    local position, had, seen = string.match(redis.call('HGET', state.meta, field) or '0 0 0', '(%d+) (%d+) (%d+)')
    mark = {number(position), number(had), number(seen)}
    marks[field] = mark
  end
  local held = math.min(state.head, math.max(delivered, read))
  local now = {math.max(mark[1], held), math.max(mark[2], held), math.max(mark[3], math.min(state.head, read))}
  if now[1] == mark[1] and now[2] == mark[2] and now[3] == mark[3] then
    return
  end
  state.marked = state.marked or now[2] > mark[2] or now[3] > mark[3]
  state.delivered[member] = math.max(state.delivered[member], now[2])
  state.read[member] = math.max(state.read[member], now[3])
  marks[field] = now
  redis.call('HSET', state.meta, field, string.format('%.0f %.0f %.0f', unpack(now)))
end

local function store(state)
  local s = state
  if s.appended then
    redis.call('HSET', s.meta, 'head', s.head, 'ts', s.ts, 'last0', s.last[0], 'last1', s.last[1],
      'visible0', s.visible[0], 'visible1', s.visible[1])
  end
  if s.marked then
    redis.call('HSET', s.meta, 'delivered0', s.delivered[0], 'read0', s.read[0],
      'delivered1', s.delivered[1], 'read1', s.read[1])
  end
end

local tops = {}

-- The number of a change is one more than the greatest in its user's index.
local function bump(user, conv)
  local index = key(user, 'convs')
  local top = tops[user] or number(redis.call('ZRANGE', index, 0, 0, 'REV', 'WITHSCORES')[2])
  tops[user] = top + 1
  redis.call('ZADD', index, top + 1, conv)
end

local states = {}
for at, one in ipairs(work) do
  states[at] = load(one[1])
  if states[at].fenced and epoch <= number(redis.call('HGET', key(one[1], 'fence'), writer)) then
    return 'fenced'
  end
end

local results = {}
for at, one in ipairs(work) do
  local conv, users, bucket, drafts, advances = unpack(one)
  local state = states[at]
  local began = state.head == 0
  local before = {[0] = {state.delivered[0], state.read[0]}, [1] = {state.delivered[1], state.read[1]}}
  local appended, grown, marks = {}, {false, false}, {}
  for n, draft in ipairs(drafts) do
    appended[n] = append(conv, state, #users == 1, draft)
  end
  for _, raised in ipairs(advances) do
    if state.head > 0 then
      advance(state, marks, raised)
    end
  end
  for _, raised in ipairs(advances) do
    local m = raised[1]
    local delivered, read = state.delivered[m], state.read[m]
    grown[m + 1] = {delivered, read, delivered ~= before[m][1] or read ~= before[m][2]}
  end
  store(state)
  local changed = (state.appended or state.marked) and true or false
  began = began and state.head > 0
  if changed and everywhere then
    for _, user in ipairs(users) do
      bump(user, conv)
    end
    if began then
      redis.call('ZADD', key(bucket, 'convs'), 0, conv)
    end
  end
  results[at] = {appended, grown, (state.blocked[0] or state.blocked[1]) and true or false, changed, began}
end
return cmsgpack.pack(results)
