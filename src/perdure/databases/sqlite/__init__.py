"""One SQLite file, shared by everything in the process that lives in it."""

from perdure.databases.sqlite.connection import Equipment
from perdure.databases.sqlite.database import MEMORY, SqliteDatabase
from perdure.databases.sqlite.guest import SqliteGuest
from perdure.databases.sqlite.rows import write_rows
from perdure.databases.sqlite.watch import Watch

__all__ = ["MEMORY", "Equipment", "SqliteDatabase", "SqliteGuest", "Watch", "write_rows"]
