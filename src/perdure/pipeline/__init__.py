"""Floor 2: what documents do; knows no jobs and no database. Load, chunk, embed, store, publish; and search."""
