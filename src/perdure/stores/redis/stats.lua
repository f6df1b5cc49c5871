-- ARGV[1]: a tenant, or * for all. Answers kind, state and number, of those that are not zero.
local counts = {}
for _, kind in ipairs(call('SMEMBERS', P .. '|kinds|' .. ARGV[1])) do
  for _, state in ipairs(STATES) do
    local number = call('ZCARD', P .. '|index|' .. ARGV[1] .. '|' .. kind .. '|' .. state)
    if number > 0 then counts[#counts + 1] = {kind, state, number} end
  end
end
return counts
