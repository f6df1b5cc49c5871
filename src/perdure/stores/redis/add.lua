-- ARGV[1], packed: for each job id, head, birth, run and links, the last three as JSON ('' is none).
-- Answers for each: nil where it was written, else the job that is there.
local function standing(id) -- an expired job makes way
  local job = id and load(id)
  if job and expired(job) then
    remove(id, job)
    return nil
  end
  return job and id
end

local function holder(name) -- who has the key; one for whom it has lapsed loses it
  local id = standing(call('HGET', P .. '|keys', name))
  if not id then return nil end
  local job, links = load(id), cjson.decode(call('HGET', job_key(id), 'l'))
  if not links.unique or tonumber(job.created) + links.unique > NOW then return id end
  links.key, job.version = nil, string.format('%d', job.version + 1)
  call('HSET', job_key(id), 'h', head_of(job), 'l', cjson.encode(links))
  hint(id, job)
  return nil
end

local function insert(id, head, birth, run, text, links)
  touch(id)
  local job, key = parse(head), job_key(id)
  local tenant = place_of(job).tenant
  call('HSET', key, 'h', head, 'b', birth)
  if run ~= '' then call('HSET', key, 'r', run) end
  if text ~= '' then
    call('HSET', key, 'l', text)
    if links.key then call('HSET', P .. '|keys', tenant .. '|' .. links.key, id) end
    for _, set in ipairs(link_sets(links)) do add(changes_of(sets, set), id, '0') end
  end
  enter(id, job)
  hint(id, job)
  return place_of(job)
end

local answers, kinds = {}, {}
for n, new in ipairs(cmsgpack.unpack(ARGV[1])) do
  local id, head, birth, run, text = unpack(new)
  local links = text ~= '' and cjson.decode(text) or {}
  local known = standing(id)
  if not known and links.key then
    known = holder(place_of(parse(head)).tenant .. '|' .. links.key)
  end
  if known then
    answers[n] = row(known)
  else
    local place = insert(id, head, birth, run, text, links)
    kinds[place.tenant .. '|' .. place.kind], kinds['*|' .. place.kind] = place.kind, place.kind
    answers[n] = false
  end
end
commit()
for name, kind in pairs(kinds) do
  local whose = string.sub(name, 1, -#kind - 2)
  call('SADD', P .. '|kinds|' .. whose, kind)
  if whose ~= '*' then call('ZADD', P .. '|tenants', 0, whose) end
end
return answers
