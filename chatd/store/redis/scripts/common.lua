-- Stands in front of every script. The first argument is always the prefix of all keys. The line KEYS of a script names
-- what it may touch under a tag: a cluster that moves a slot must be told, or it runs the script where half of it is.

local prefix = ARGV[1]

-- The key of a thing: all keys of one conversation, or of one user, have one tag and so live in one slot.
local function key(tag, what)
  return prefix .. '{' .. tag .. '}:' .. what
end

local function number(text)
  return tonumber(text or 0)
end

-- Ranges of a log want text, and a large number as text would lose digits.
local function id(seq)
  return string.format('%.0f-0', seq)
end

-- What a conversation is now stands in one field, for each field of a small hash is searched from its beginning.
local STATE = '%.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f %.0f'
local NUMBERS = '(%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+)'
local NOTHING = '0 0 0 0 0 0 0 0 0 0 0'

-- The field `state` taken apart. By member, 0 or 1: the last seq sent, the last one that the other may see, the marks.
local function parsed(text)
  local head, ts, last0, last1, visible0, visible1, delivered0, read0, delivered1, read1, hidden =
    string.match(text or NOTHING, NUMBERS)
  return {
    head = tonumber(head), ts = tonumber(ts),
    last = {[0] = tonumber(last0), [1] = tonumber(last1)},
    visible = {[0] = tonumber(visible0), [1] = tonumber(visible1)},
    delivered = {[0] = tonumber(delivered0), [1] = tonumber(delivered1)},
    read = {[0] = tonumber(read0), [1] = tonumber(read1)},
    hidden = tonumber(hidden) -- how many messages are
  }
end

local function state_of(conv)
  return parsed(redis.call('HGET', key(conv, 'meta'), 'state'))
end

-- The field `trimmed` taken apart: all up to `seq` are deleted; `ts` is of the last of them, `hidden` how many were.
local function trimmed_of(text)
  local seq, ts, hidden = string.match(text or '0 0 0', '(%d+) (%d+) (%d+)')
  return {seq = tonumber(seq), ts = tonumber(ts), hidden = tonumber(hidden)}
end
