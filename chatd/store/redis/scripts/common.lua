-- Stands in front of every script. The first argument is always the prefix of all keys.

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
