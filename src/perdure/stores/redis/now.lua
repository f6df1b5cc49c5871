-- The server's time, in microseconds.
return micros(NOW)
