-- ARGV: a name, limit. Answers the tenants behind it, and since when the first job of each is due.
local oldest = {}
for _, kind in ipairs(call('SMEMBERS', P .. '|kinds|*')) do
  for _, line in ipairs({'|awake|', '|asleep|'}) do
    for _, lane in ipairs(call('ZRANGE', P .. line .. kind, 0, -1)) do
      local head = call('ZRANGE', P .. '|lane|' .. kind .. '|' .. lane, 0, 0, 'WITHSCORES')
      local due, tenant = tonumber(head[2]), match(lane, '|(.*)$')
      if due and due <= NOW then oldest[tenant] = math.min(oldest[tenant] or due, due) end
    end
  end
end
local answers = {}
for _, tenant in ipairs(call('ZRANGEBYLEX', P .. '|tenants', '(' .. ARGV[1], '+', 'LIMIT', 0, tonumber(ARGV[2]))) do
  answers[#answers + 1] = {tenant, oldest[tenant] and micros(oldest[tenant]) or false}
end
return answers
