#!lua
-- KEYS: meta log ids
-- Drafts become messages and marks rise, in all conversations given or, when a fence stands before one, in none.
-- ARGV: prefix, writer, epoch, '1' if the users' keys are in reach, work in MessagePack:
--   { {conv, {user, …}, bucket, {{member, id, body, ts_ms, born_ms}, …}, {{member, device, delivered, read}, …}}, … }
--   where a device of a member stands once, and an id that does not tell when it was made was born at 0
-- Returns in MessagePack, or 'fenced':
--   { {{{seq, ts_ms, flags}, …}, {{delivered, read, grew} or false for each member}, private, changed, began}, … }
--   flags: 1 a duplicate, 2 another body, 4 hidden, 8 the id is as old as what was trimmed

local UNPACKED_MAX = 1000 -- what Lua's stack surely takes at once; even, for fields and values come in pairs
local AHEAD_MS_MAX = 3600000 -- how far a device's clock may be ahead of ours
local writer, epoch, everywhere = ARGV[2], tonumber(ARGV[3]), ARGV[4] == '1'
local work = cmsgpack.unpack(ARGV[5])

-- The state of a conversation, with the marks of the devices that advance: "position delivered read" each.
local function load(conv, advances)
  local fields = {'state', 'blocked0', 'blocked1', 'fenced', 'trimmed'}
  for n, one in ipairs(advances) do
    fields[5 + n] = 'mark' .. one[1] .. one[2]
  end
  local got = {}
  for first = 1, #fields, UNPACKED_MAX do
    local last = math.min(#fields, first + UNPACKED_MAX - 1)
    for n, value in ipairs(redis.call('HMGET', key(conv, 'meta'), unpack(fields, first, last))) do
      got[first + n - 1] = value
    end
  end
  local state = parsed(got[1])
  state.blocked = {[0] = got[2] and true, [1] = got[3] and true} -- [0]: the first of the two blocks the other
  state.fenced = got[4]
  state.trimmed_ts = trimmed_of(got[5]).ts
  state.marks, state.raised = {}, {}
  for n = 1, #advances do
    local position, delivered, read = string.match(got[5 + n] or '0 0 0', '(%d+) (%d+) (%d+)')
    state.marks[fields[5 + n]] = {tonumber(position), tonumber(delivered), tonumber(read)}
  end
  return state
end

local function append(conv, state, own, draft)
  local member, uuid, body, ts, born = unpack(draft)
  local seq, ids, log = state.head + 1, key(conv, 'ids'), key(conv, 'log')
  local old = state.trimmed_ts > 0 and born > 0 and born <= state.trimmed_ts + AHEAD_MS_MAX
  if old and redis.call('HEXISTS', ids, member .. uuid) == 0 then
    return {0, 0, 8}
  end
  if redis.call('HSETNX', ids, member .. uuid, seq) == 0 then
    seq = number(redis.call('HGET', ids, member .. uuid))
    state.repeated = true
    local first = redis.call('XRANGE', log, id(seq), id(seq))[1][2] -- a trimmed message's id went with it
    if first[10] ~= body or first[11] then
      return {0, 0, 2}
    end
    return {seq, number(first[6]), number(first[8]) < 0 and 5 or 1}
  end
  local hidden = not own and state.blocked[1 - member]
  ts = math.max(ts, state.ts)
  state.head, state.ts, state.last[member], state.appended = seq, ts, seq, true
  if hidden then
    state.hidden = state.hidden + 1
  else
    state.visible[member] = seq
  end
  -- h: how many are hidden up to here, negative when this one is
  local h = hidden and -state.hidden or state.hidden
  redis.call('XADD', log, id(seq), 'm', member, 'i', uuid, 't', ts, 'h', h, 'b', body)
  return {seq, ts, hidden and 4 or 0}
end

local function advance(state, one)
  local member, device, delivered, read = unpack(one)
  local field = 'mark' .. member .. device
  local mark = state.marks[field]
  local held = math.min(state.head, math.max(delivered, read))
  local now = {math.max(mark[1], held), math.max(mark[2], held), math.max(mark[3], math.min(state.head, read))}
  if now[1] == mark[1] and now[2] == mark[2] and now[3] == mark[3] then
    return
  end
  state.marked = state.marked or now[2] > mark[2] or now[3] > mark[3]
  state.delivered[member] = math.max(state.delivered[member], now[2])
  state.read[member] = math.max(state.read[member], now[3])
  state.marks[field] = now
  state.raised[field] = now
end

-- One write for all that changed.
local function store(conv, s)
  local fields = {}
  -- Of what is here already too: who waits for replicas waits for his own last write, and so for all before it.
  if s.appended or s.marked or s.repeated then
    fields = {'state', string.format(STATE, s.head, s.ts, s.last[0], s.last[1], s.visible[0], s.visible[1],
      s.delivered[0], s.read[0], s.delivered[1], s.read[1], s.hidden)}
  end
  for field, now in pairs(s.raised) do
    fields[#fields + 1] = field
    fields[#fields + 1] = string.format('%.0f %.0f %.0f', now[1], now[2], now[3])
  end
  for first = 1, #fields, UNPACKED_MAX do
    redis.call('HSET', key(conv, 'meta'), unpack(fields, first, math.min(#fields, first + UNPACKED_MAX - 1)))
  end
end

local states = {}
for at, one in ipairs(work) do
  states[at] = load(one[1], one[5])
  if states[at].fenced and epoch <= number(redis.call('HGET', key(one[1], 'meta'), 'fence' .. writer)) then
    return 'fenced'
  end
end

local change = everywhere and redis.call('INCRBY', prefix .. 'changes', #work) - #work
local results = {}
for at, one in ipairs(work) do
  local conv, users, bucket, drafts, advances = unpack(one)
  local state = states[at]
  local began = state.head == 0
  local before = {[0] = {state.delivered[0], state.read[0]}, [1] = {state.delivered[1], state.read[1]}}
  local appended, grown = {}, {false, false}
  for n, draft in ipairs(drafts) do
    appended[n] = append(conv, state, #users == 1, draft)
  end
  for _, raised in ipairs(advances) do
    if state.head > 0 then
      advance(state, raised)
    end
  end
  for _, raised in ipairs(advances) do
    local m = raised[1]
    local delivered, read = state.delivered[m], state.read[m]
    grown[m + 1] = {delivered, read, delivered ~= before[m][1] or read ~= before[m][2]}
  end
  store(conv, state)
  local changed = (state.appended or state.marked) and true or false
  began = began and state.head > 0
  if changed and everywhere then
    for _, user in ipairs(users) do
      redis.call('ZADD', key(user, 'convs'), change + at, conv)
    end
    if began then
      redis.call('ZADD', key(bucket, 'convs'), 0, conv)
    end
  end
  results[at] = {appended, grown, (state.blocked[0] or state.blocked[1]) and true or false, changed, began}
end
return cmsgpack.pack(results)
