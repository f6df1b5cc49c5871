-- ARGV: limit, most lines of the log. Answers how many expired jobs were removed.
local ids = call('ZRANGEBYSCORE', P .. '|expiring', '-inf', micros(NOW), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do
  local job = load(id)
  if job then remove(id, job) else call('ZREM', P .. '|expiring', id) end -- evicted by the server
end
commit()
local over = call('XLEN', P .. '|log') - tonumber(ARGV[2])
if over > 0 then
  local gone = call('XRANGE', P .. '|log', '-', '+', 'COUNT', math.min(over, BITE))
  call('SET', P .. '|logstart', gone[#gone][1])
  call('XTRIM', P .. '|log', 'MAXLEN', call('XLEN', P .. '|log') - #gone)
end
return #ids
