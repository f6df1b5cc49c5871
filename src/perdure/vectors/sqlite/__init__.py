"""Chunks in an SQLite file: vectors by sqlite-vec, words by FTS5, by default beside the jobs."""

from perdure.vectors.sqlite.store import SqliteVectorStore

__all__ = ["SqliteVectorStore"]
