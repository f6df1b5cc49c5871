-- ARGV: worker, lease in microseconds, limit, terms (packed; '' is none), kinds… Answers the jobs, in the order of claiming.
local worker, lease, limit = '=' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local terms = ARGV[4] ~= '' and cmsgpack.unpack(ARGV[4]) or {limits = {}, shares = {}}
local kinds = {unpack(ARGV, 5)}
local PRIORITY_STEP = 2 ^ 42 -- priorities times this, plus a turn, stay below a double's 2^53

local running = {} -- of kinds with a limit: index → its size

local function running_in(whose, kind)
  local index = P .. '|index|' .. whose .. '|' .. kind .. '|running'
  running[index] = running[index] or call('ZCARD', index)
  return running[index], index
end

local function left(kind, tenant) -- how many more of the kind may run
  local bound = terms.limits[kind]
  if not bound then return math.huge end
  local room = math.huge
  if bound[1] then room = bound[1] - running_in('*', kind) end
  if bound[2] then room = math.min(room, bound[2] - running_in(tenant, kind)) end
  return math.max(room, 0)
end

local function fill(kind, tenant)
  if terms.limits[kind] then
    for _, whose in ipairs({'*', tenant}) do
      local number, index = running_in(whose, kind)
      running[index] = number + 1
    end
  end
end

local function tenant_of(lane) return match(lane, '|(.*)$') end

local function weight(lane) return terms.shares[tenant_of(lane)] or 1 end

local function wake(kind) -- who wakes joins at the end of its priority's turns
  local lanes = call('ZRANGEBYSCORE', P .. '|asleep|' .. kind, '-inf', micros(NOW))
  local awake, turn = {}, tonumber(call('GET', P .. '|turn') or 0)
  for _, lane in ipairs(lanes) do
    awake[#awake + 1] = micros(turn - tonumber(match(lane, '^[^|]+')) * PRIORITY_STEP)
    awake[#awake + 1] = lane
  end
  for first = 1, #awake, BITE do
    call('ZADD', P .. '|awake|' .. kind, 'NX', unpack(awake, first, math.min(first + BITE - 1, #awake)))
  end
  in_bites('ZREM', P .. '|asleep|' .. kind, lanes)
end

local function first_lanes(kind, most, visit) -- those that may take a job, by their turns
  local first, seen = 0, 0
  repeat
    local lanes = call('ZRANGE', P .. '|awake|' .. kind, first, first + most - 1, 'WITHSCORES')
    for n = 1, #lanes, 2 do
      if left(kind, tenant_of(lanes[n])) > 0 then
        seen = seen + 1
        visit(lanes[n], tonumber(lanes[n + 1]))
      end
    end
    first = first + most
  until seen >= most or #lanes < 2 * most
end

local function next_lanes(most) -- of the highest priority that any has, those whose turn is next
  local turns, top = {}, math.huge
  for _, kind in ipairs(kinds) do
    first_lanes(kind, most, function(lane, turn)
      turns[lane] = math.min(turns[lane] or math.huge, turn)
      top = math.min(top, math.floor(turn / PRIORITY_STEP))
    end)
  end
  local lanes = {}
  for lane, turn in pairs(turns) do
    if math.floor(turn / PRIORITY_STEP) == top then lanes[#lanes + 1] = lane end
  end
  table.sort(lanes, function(a, b) return turns[a] < turns[b] or turns[a] == turns[b] and a < b end)
  return {unpack(lanes, 1, math.min(most, #lanes))}
end

local function due_jobs(lane, most) -- by due time, then id
  local jobs = {}
  for _, kind in ipairs(kinds) do
    local ids = call('ZRANGEBYSCORE', P .. '|lane|' .. kind .. '|' .. lane, '-inf', micros(NOW),
      'WITHSCORES', 'LIMIT', 0, math.min(most, left(kind, tenant_of(lane))))
    for n = 1, #ids, 2 do jobs[#jobs + 1] = {id = ids[n], due = tonumber(ids[n + 1]), kind = kind} end
  end
  if #kinds > 1 then
    table.sort(jobs, function(a, b) return a.due < b.due or a.due == b.due and a.id < b.id end)
  end
  return jobs
end

local function settle(lane, taken, turn) -- take out what was taken; go to the end of the turns once this one is over, or to sleep
  for _, kind in ipairs(kinds) do
    local queue, awake = P .. '|lane|' .. kind .. '|' .. lane, P .. '|awake|' .. kind
    in_bites('ZREM', queue, taken[kind] or {})
    local first = call('ZRANGE', queue, 0, 0, 'WITHSCORES')
    if first[2] and tonumber(first[2]) <= NOW then
      if turn then call('ZADD', awake, micros(turn - tonumber(match(lane, '^[^|]+')) * PRIORITY_STEP), lane) end
    else
      call('ZREM', awake, lane)
      if first[2] then call('ZADD', P .. '|asleep|' .. kind, 'LT', first[2], lane) end
    end
  end
end

local due, moment = micros(NOW + lease), micros(NOW)
local PENDING = '^%S+ %S+ (%S+) (%S+) %S+ %S+ (%S+) (%S+ %S+ %S+) '

local function start(id) -- as `perdure.domain.transition.claim` says; the lane is settled apart
  local fields = row(id)
  if not fields then return nil end -- a server that evicts keys may have dropped it
  local epoch, version, created, place = match(fields[1], PENDING)
  local job = {state = 'running', due = due, epoch = string.format('%d', epoch + 1),
    version = string.format('%d', version + 1), updated = moment, started = moment, created = created,
    place = place, worker = worker}
  drop(changes_of(place_of(job).indexes, 'pending'), id)
  enter(id, job)
  hint(id, job)
  fields[1] = head_of(job)
  call('HSET', job_key(id), 'h', fields[1])
  return fields
end

local started = {}

local function had_before(lane) -- jobs of a turn that is not over
  return weight(lane) > 1 and tonumber(call('HGET', P .. '|had', lane) or 0) or 0
end

local function is_over(lane, had) -- whether its turn is; if not, the next claim goes on with it
  if weight(lane) == 1 then return had > 0 end
  local rest = had % weight(lane)
  call('HSET', P .. '|had', lane, rest)
  return had > 0 and rest == 0
end

local function serve(lanes) -- as many jobs of each lane in turn as its share is, until there are enough
  local room, whole = limit - #started, 0
  for _, lane in ipairs(lanes) do whole = whole + weight(lane) end
  local queues, at, taken, had = {}, {}, {}, {}
  for n, lane in ipairs(lanes) do
    queues[n] = due_jobs(lane, math.max(weight(lane), math.ceil(room * weight(lane) / whole)))
    at[n], taken[n], had[n] = 1, {}, had_before(lane)
  end
  local function next_job(n)
    local job = queues[n][at[n]]
    while job and left(job.kind, tenant_of(lanes[n])) == 0 do
      at[n] = at[n] + 1
      job = queues[n][at[n]]
    end
    at[n] = at[n] + 1
    return job
  end
  local hungry = true
  while hungry and #started < limit do
    hungry = false
    for n, lane in ipairs(lanes) do
      local turn = weight(lane) - had[n] % weight(lane)
      while turn > 0 and #started < limit do
        local job = next_job(n)
        if not job then break end
        started[#started + 1] = start(job.id)
        fill(job.kind, tenant_of(lane))
        local of_kind = taken[n][job.kind] or {}
        of_kind[#of_kind + 1] = job.id
        taken[n][job.kind] = of_kind
        had[n], turn, hungry = had[n] + 1, turn - 1, true
      end
    end
  end
  local turn = call('INCRBY', P .. '|turn', #lanes) - #lanes
  for n, lane in ipairs(lanes) do settle(lane, taken[n], is_over(lane, had[n]) and turn + n) end
end

for _, kind in ipairs(kinds) do wake(kind) end
while #started < limit do
  local lanes = next_lanes(math.min(limit - #started, BITE))
  if #lanes == 0 then break end
  serve(lanes)
end
commit()
return started
