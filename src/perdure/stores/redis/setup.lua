-- ARGV[1]: the schema of this Perdure. Answers that of the store, which is this one where there was none.
call('SETNX', P .. '|schema', ARGV[1])
return call('GET', P .. '|schema')
