"""The job store over an SQLite file."""

from perdure.stores.sqlite.store import SqliteJobStore

__all__ = ["SqliteJobStore"]
