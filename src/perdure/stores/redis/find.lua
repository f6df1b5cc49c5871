-- ARGV[1], packed: tenant, states, kinds, user, document, from, before (microseconds), after, limit, budget (ids to look
-- at), counting, oldest (first); absent is none. Answers the id to go on from ('' at the end), then the jobs or, counting, their number.
local q = cmsgpack.unpack(ARGV[1])
local whose = q.tenant or '*'

local function by_kind_and_state()
  local sources = {size = 0}
  for _, kind in ipairs(q.kinds or call('SMEMBERS', P .. '|kinds|' .. whose)) do
    for _, state in ipairs(q.states or STATES) do
      local set = P .. '|index|' .. whose .. '|' .. kind .. '|' .. state
      local size = call('ZCARD', set)
      if size > 0 then sources[#sources + 1], sources.size = set, sources.size + size end
    end
  end
  return sources
end

local function set_of(list)
  local set = {}
  for _, name in ipairs(list) do set[name] = true end
  return set
end

local states, kinds, linked = q.states and set_of(q.states), q.kinds and set_of(q.kinds), {}
local sources = by_kind_and_state()
for name, value in pairs({user = q.user, document = q.document}) do
  linked[#linked + 1] = P .. '|' .. name .. '|' .. value
end
for _, set in ipairs(linked) do -- the narrowest index leads
  local size = call('ZCARD', set)
  if size < sources.size then sources = {set, size = size} end
end

local function matches(id)
  local job = load(id)
  local place = job and place_of(job)
  if not job or expired(job) or q.tenant and place.tenant ~= q.tenant or states and not states[job.state]
    or kinds and not kinds[place.kind] or q.from and tonumber(job.created) < q.from
    or q.before and tonumber(job.created) >= q.before then return false end
  for _, set in ipairs(linked) do
    if set ~= sources[1] and not call('ZSCORE', set, id) then return false end
  end
  return true
end

local function before(a, b) -- in the order of the list
  if q.oldest then return a < b end
  return a > b
end

local function following(cursor, wanted) -- the next ids of all sources, in order; and whether these are the last
  local bite = math.ceil(2 * wanted / #sources) + 1
  local ids, horizon = {}, ''
  for _, set in ipairs(sources) do
    local some = call(q.oldest and 'ZRANGEBYLEX' or 'ZREVRANGEBYLEX', set, cursor, q.oldest and '+' or '-', 'LIMIT', 0, bite)
    for _, id in ipairs(some) do ids[#ids + 1] = id end
    -- Behind its last id a source may hold more that has not been seen.
    if #some == bite and (horizon == '' or before(some[bite], horizon)) then horizon = some[bite] end
  end
  table.sort(ids, before)
  while horizon ~= '' and #ids > 0 and before(horizon, ids[#ids]) do ids[#ids] = nil end
  return ids, horizon == ''
end

local found, last, looked, ended = {}, q.after, 0, #sources == 0
while #found < q.limit and looked < q.budget and not ended do
  local ids
  ids, ended = following(last and '(' .. last or q.oldest and '-' or '+', math.max(q.limit - #found, 32))
  for _, id in ipairs(ids) do
    if #found < q.limit then
      last, looked = id, looked + 1
      if matches(id) then found[#found + 1] = q.counting and 1 or row(id) end
    end
  end
end
local rest = ended and '' or last or ''
if q.counting then return {rest, #found} end
table.insert(found, 1, rest)
return found
