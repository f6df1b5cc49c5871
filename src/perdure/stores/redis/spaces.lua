-- Answers the spaces in which there is a value, in any order.
return call('SMEMBERS', P .. '|valuespaces')
