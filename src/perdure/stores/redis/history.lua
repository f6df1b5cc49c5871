-- ARGV: tenant, id. Answers id and "VERSION ENTRY" of each entry, in no order.
if not visible(ARGV[1], ARGV[2]) then return {} end
local entries, fields = {}, call('HGETALL', job_key(ARGV[2]))
for n = 1, #fields, 2 do
  if #fields[n] > 1 then
    entries[#entries + 1] = fields[n]
    entries[#entries + 1] = fields[n + 1]
  end
end
return entries
