-- ARGV[1]: limit. Answers the jobs whose lease or deadline is over, longest overdue first.
return rows(call('ZRANGEBYSCORE', P .. '|overdue', '-inf', micros(NOW), 'LIMIT', 0, ARGV[1]))
