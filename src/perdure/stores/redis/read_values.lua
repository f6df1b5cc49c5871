-- ARGV: space, keys… Answers "VERSION VALUE" for each, nothing where there is none.
return call('HMGET', P .. '|values|' .. ARGV[1], unpack(ARGV, 2))
