-- ARGV: space, limit, after. Answers key and "VERSION VALUE" of each, by key.
local keys = call('ZRANGEBYLEX', P .. '|valuekeys|' .. ARGV[1], '(' .. ARGV[3], '+', 'LIMIT', 0, ARGV[2])
local found = {}
for n, key in ipairs(keys) do
  found[2 * n - 1] = key
  found[2 * n] = call('HGET', P .. '|values|' .. ARGV[1], key)
end
return found
