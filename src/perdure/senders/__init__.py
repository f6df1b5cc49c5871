"""What carries a word to other systems."""
