#!lua
-- KEYS: leases
-- ARGV: prefix, tag, who ('' for nobody), seconds that its lease lasts, 0 to give it back
-- Returns: who has a lease, by when it ends. All by this server's clock

local leases = key(ARGV[2], 'leases')
local KEPT_S = 3600 -- it goes by itself when nobody renews a lease any more
local time = redis.call('TIME')
local now_s = tonumber(time[1]) + tonumber(time[2]) / 1e6
local lease_s = tonumber(ARGV[4])
if ARGV[3] ~= '' and lease_s > 0 then
  redis.call('ZADD', leases, string.format('%.6f', now_s + lease_s), ARGV[3])
  redis.call('ZREMRANGEBYSCORE', leases, '-inf', string.format('%.6f', now_s - 10 * lease_s))
  redis.call('EXPIRE', leases, KEPT_S)
elseif ARGV[3] ~= '' then
  redis.call('ZREM', leases, ARGV[3])
end
return redis.call('ZRANGEBYSCORE', leases, string.format('%.6f', now_s), '+inf')
