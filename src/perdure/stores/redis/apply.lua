-- ARGV[1], packed: for each transition the fields that are named below; '' is none. Answers 1 where it stands, else 0.
local function apply(id, epoch, version, state, due, updated, run, entry_id, entry, priority, terms)
  local key = job_key(id)
  local stored = call('HMGET', key, 'h', entry_id)
  if not stored[1] then return 0 end
  if stored[2] and entry_id ~= '' then return 1 end
  local job = parse(stored[1])
  if version ~= '' then
    if job.version ~= version then return 0 end
  elseif job.state ~= 'running' or job.epoch ~= epoch then
    return 0
  end
  touch(id)
  leave(id, job)
  job.version, job.updated = string.format('%d', job.version + 1), updated
  if state ~= 'running' or job.state ~= 'running' then job.due = due end -- only a heartbeat moves a lease
  job.state = state
  if version ~= '' then
    job.place = string.gsub(job.place, '^%S+', priority)
    call('HSET', key, 't', terms)
  end
  if entry_id ~= '' then
    call('HSET', key, 'h', head_of(job), 'r', run, entry_id, job.version .. ' ' .. entry)
    call('XADD', P .. '|log', '*', 'e', id .. ' ' .. entry_id)
  else
    call('HSET', key, 'h', head_of(job), 'r', run)
  end
  enter(id, job)
  hint(id, job)
  return 1
end

local answers = {}
for n, move in ipairs(cmsgpack.unpack(ARGV[1])) do answers[n] = apply(unpack(move)) end
commit()
return answers
