-- What all scripts share; it is put before each of them. KEYS[1] is a hash tag that begins every key of the store, so
-- that all of them lie in one slot. Names of tenants and kinds hold neither space nor "|". Under the prefix P:
--
--   P|job|ID                     hash: h head; as JSON b birth, t terms once edited, r run once there is something, l links
--                                where it has any; and a field for each history entry: its id → "VERSION ENTRY"
--   P|index|WHOSE|KIND|STATE     every id, ordered by id; WHOSE is a tenant, or * for all. Their sizes are the counters
--   P|kinds|WHOSE                the kinds that it has jobs of
--   P|tenants                    who has, or had, jobs; ordered by name
--   P|user|USER, P|document|DOCUMENT     ids of all tenants, ordered by id
--   P|keys                       "TENANT|IDEMPOTENCY KEY" → id
--   P|lane|KIND|PRIORITY|TENANT  pending ids by due time
--   P|awake|KIND                 lanes (as PRIORITY|TENANT) that may have a job due: by priority, then by whose turn it is
--   P|asleep|KIND                lanes by the time of their first job, to be woken then
--   P|turn                       the last turn that was taken
--   P|had                        lane → jobs that it had in a turn that is not over; of tenants with a share above 1
--   P|overdue                    running and waiting ids by lease or deadline
--   P|expiring                   finished ids by the end of their ttl
--   P|log                        stream: "ID ENTRY_ID" of each history entry; P|logstart: the last line that was trimmed
--   P|values|SPACE               key → "VERSION VALUE"; P|valuekeys|SPACE the keys by name
--   P|valuespaces                the spaces that have keys; P|valueversion the last version given
local P = KEYS[1]
local TIME = redis.call('TIME')
local NOW = TIME[1] * 1000000 + TIME[2] -- microseconds: a double holds them exactly until the year 2255
local STATES = {'pending', 'running', 'waiting', 'completed', 'partial', 'failed', 'cancelled'}
local FINISHED = {completed = true, partial = true, failed = true, cancelled = true}
local HEAD = '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+ %S+ %S+) (.*)$'
local BITE = 4000 -- arguments of one command; Lua's stack ends at 8000
local MANY_HINTS = 100
local call, match = redis.call, string.match

local function micros(number) return string.format('%.0f', number) end

-- A head: state due epoch version updated started created priority tenant kind =worker. Its times stay texts, so that
-- those beyond a double's precision come back as they were; "-" is none. Priority, tenant and kind are the job's place:
-- many jobs share it, and with it the sets that they go through.
local function parse(head)
  local state, due, epoch, version, updated, started, created, place, worker = match(head, HEAD)
  return {state = state, due = due, epoch = epoch, version = version, updated = updated, started = started,
    created = created, place = place, worker = worker}
end

local function head_of(job)
  return job.state .. ' ' .. job.due .. ' ' .. job.epoch .. ' ' .. job.version .. ' ' .. job.updated .. ' '
    .. job.started .. ' ' .. job.created .. ' ' .. job.place .. ' ' .. job.worker
end

local places = {}

local function place_of(job)
  local place = places[job.place]
  if not place then
    local priority, tenant, kind = match(job.place, '^(%S+) (%S+) (%S+)$')
    place = {tenant = tenant, kind = kind, lane = priority .. '|' .. tenant, indexes = {}, wake = math.huge}
    places[job.place] = place
  end
  return place
end

local function job_key(id) return P .. '|job|' .. id end

local function load(id)
  local head = call('HGET', job_key(id), 'h')
  return head and parse(head)
end

local function row(id) -- what the store makes a job of; nil where there is none
  local fields = call('HMGET', job_key(id), 'h', 'b', 't', 'r', 'l')
  fields[6] = id
  return fields[1] and fields or nil
end

local function rows(ids)
  local found = {}
  for _, id in ipairs(ids) do found[#found + 1] = row(id) end
  return found
end

local function expired(job)
  return FINISHED[job.state] and job.due ~= '-' and tonumber(job.due) <= NOW
end

local function visible(tenant, id)
  local job = load(id)
  return job and place_of(job).tenant == tenant and not expired(job)
end

local function in_bites(command, key, list)
  for first = 1, #list, BITE do
    call(command, key, unpack(list, first, math.min(first + BITE - 1, #list)))
  end
end

-- --- changes of sorted sets are gathered, and written with one command for each set -----------------------------

local sets, touched, hints, emptied = {}, {}, {}, {}

local function changes_of(group, name) -- what goes in, as score, id, …; and what goes out
  local changes = group[name]
  if not changes then
    changes = {added = {}, dropped = {}}
    group[name] = changes
  end
  return changes
end

local function add(changes, id, score)
  local added = changes.added
  local size = #added
  added[size + 1], added[size + 2] = score, id
end

local function drop(changes, id)
  local dropped = changes.dropped
  dropped[#dropped + 1] = id
end

local function write(command, list) -- out of all sets before into any: a job may move between places of one set
  for set, changes in pairs(sets) do in_bites(command, set, changes[list]) end
  for _, place in pairs(places) do
    for state, changes in pairs(place.indexes) do
      in_bites(command, P .. '|index|' .. place.tenant .. '|' .. place.kind .. '|' .. state, changes[list])
      in_bites(command, P .. '|index|*|' .. place.kind .. '|' .. state, changes[list])
    end
    if place.queue then in_bites(command, P .. '|lane|' .. place.kind .. '|' .. place.lane, place.queue[list]) end
  end
end

local function write_sets()
  write('ZREM', 'dropped')
  write('ZADD', 'added')
  for _, place in pairs(places) do
    if place.wake < math.huge then
      call('ZADD', P .. '|asleep|' .. place.kind, 'LT', micros(place.wake), place.lane)
    end
  end
  sets, places, touched = {}, {}, {}
end

local function touch(id) -- a second change of the same job comes after the first
  if touched[id] then write_sets() end
  touched[id] = true
end

local function timetable(place, job)
  if job.state == 'pending' then
    place.queue = place.queue or {added = {}, dropped = {}}
    return place.queue
  end
  return changes_of(sets, P .. (FINISHED[job.state] and '|expiring' or '|overdue'))
end

local function enter(id, job)
  local place = place_of(job)
  add(changes_of(place.indexes, job.state), id, '0')
  if job.due ~= '-' then
    add(timetable(place, job), id, job.due)
    if job.state == 'pending' then place.wake = math.min(place.wake, tonumber(job.due)) end
  end
end

local function leave(id, job)
  local place = place_of(job)
  drop(changes_of(place.indexes, job.state), id)
  if job.due ~= '-' then drop(timetable(place, job), id) end
end

local function hint(id, job)
  if #hints <= MANY_HINTS then hints[#hints + 1] = place_of(job).tenant .. '|' .. id end
end

local function link_sets(links)
  local names = {}
  if links.user then names[1] = P .. '|user|' .. links.user end
  if links.document then names[#names + 1] = P .. '|document|' .. links.document end
  return names
end

local function remove(id, job)
  touch(id)
  local place = place_of(job)
  local text = call('HGET', job_key(id), 'l')
  if text then
    local links = cjson.decode(text)
    local name = links.key and place.tenant .. '|' .. links.key
    if name and call('HGET', P .. '|keys', name) == id then call('HDEL', P .. '|keys', name) end
    for _, set in ipairs(link_sets(links)) do drop(changes_of(sets, set), id) end
  end
  call('UNLINK', job_key(id))
  leave(id, job)
  emptied[place.tenant .. '|' .. place.kind], emptied['*|' .. place.kind] = true, true
  hint(id, job)
end

local function forget_kinds()
  for name in pairs(emptied) do
    local whose, kind = match(name, '^(.-)|(.*)$')
    local left = {}
    for n, state in ipairs(STATES) do left[n] = P .. '|index|' .. name .. '|' .. state end
    if call('EXISTS', unpack(left)) == 0 then call('SREM', P .. '|kinds|' .. whose, kind) end
  end
end

local function commit()
  write_sets()
  forget_kinds()
  if #hints > 0 then
    call('PUBLISH', P .. '|changes', #hints > MANY_HINTS and '' or table.concat(hints, ' '))
  end
end
