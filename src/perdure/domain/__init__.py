"""Floor 0: what the words mean. No I/O, no environment, no clock."""
