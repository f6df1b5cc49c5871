"""Floor 2: what jobs do. Knows no database and no document."""
