-- ARGV: position ('' for the end), limit. Answers where to go on, how many lines there were, and of each that is of a job
-- that is still there: tenant, kind, job id, entry id, "VERSION ENTRY". Nothing where the log does not go back so far.
local log = P .. '|log'
if ARGV[1] == '' then
  local last = call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
  return {last and last[1] or call('GET', P .. '|logstart') or '0-0', 0}
end
local function before(a, b) -- positions are MILLISECONDS-NUMBER
  local ms_a, n_a = match(a, '^(%d+)-(%d+)$')
  local ms_b, n_b = match(b, '^(%d+)-(%d+)$')
  return tonumber(ms_a) < tonumber(ms_b) or ms_a == ms_b and tonumber(n_a) < tonumber(n_b)
end
local start = call('GET', P .. '|logstart') -- the last line that was trimmed
if start and before(ARGV[1], start) then return false end
local lines = call('XRANGE', log, '(' .. ARGV[1], '+', 'COUNT', ARGV[2])
local answer = {ARGV[1], #lines}
for _, line in ipairs(lines) do
  local id, entry_id = match(line[2][2], '^(%S+) (%S+)$')
  local fields = call('HMGET', job_key(id), 'h', entry_id)
  if fields[1] and fields[2] then
    local place = place_of(parse(fields[1]))
    local kind = match(parse(fields[1]).place, '(%S+)$')
    for _, part in ipairs({place.tenant, kind, id, entry_id, fields[2]}) do answer[#answer + 1] = part end
  end
  answer[1] = line[1]
end
return answer
