-- ARGV: tenant, id. Answers the job, or nil.
return visible(ARGV[1], ARGV[2]) and row(ARGV[2])
