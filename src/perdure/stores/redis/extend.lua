-- ARGV: worker, lease in microseconds, then id and epoch of each job. Answers the ids that the worker does not own.
local worker, due, lost = '=' .. ARGV[1], micros(NOW + tonumber(ARGV[2])), {}
for n = 3, #ARGV, 2 do
  local id, job = ARGV[n], load(ARGV[n])
  if job and job.state == 'running' and job.epoch == ARGV[n + 1] and job.worker == worker then
    job.due, job.version = due, job.version + 1
    call('HSET', job_key(id), 'h', head_of(job))
    add(timetable(place_of(job), job), id, due)
    hint(id, job)
  else
    lost[#lost + 1] = id
  end
end
commit()
return lost
