-- ARGV: space, key, the value as JSON ('' to remove it), the version expected. Answers the new version; nothing on a conflict.
local values, keys = P .. '|values|' .. ARGV[1], P .. '|valuekeys|' .. ARGV[1]
local kept = call('HGET', values, ARGV[2])
if (kept and match(kept, '^%d+') or '0') ~= ARGV[4] then return false end
if ARGV[3] == '' then
  if not kept then return false end
  call('HDEL', values, ARGV[2])
  call('ZREM', keys, ARGV[2])
  if call('EXISTS', keys) == 0 then call('SREM', P .. '|valuespaces', ARGV[1]) end
  return tonumber(ARGV[4])
end
local version = call('INCR', P .. '|valueversion')
call('HSET', values, ARGV[2], version .. ' ' .. ARGV[3])
call('ZADD', keys, 0, ARGV[2])
call('SADD', P .. '|valuespaces', ARGV[1])
return version
