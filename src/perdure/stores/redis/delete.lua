-- ARGV: tenant, id. Answers 1 where there was such a job.
local job = load(ARGV[2])
if not job or place_of(job).tenant ~= ARGV[1] then return 0 end
remove(ARGV[2], job)
commit()
return 1
