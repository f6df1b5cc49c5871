"""One PostgreSQL database, shared by the stores that live in it."""

from perdure.databases.postgres.database import Connection, PostgresDatabase
from perdure.databases.postgres.errors import Duplicate, translated
from perdure.databases.postgres.gathering import Gathering
from perdure.databases.postgres.guest import PostgresGuest
from perdure.databases.postgres.migrate import Schema, prepare
from perdure.databases.postgres.queries import load_queries

__all__ = [
    "Connection",
    "Duplicate",
    "Gathering",
    "PostgresDatabase",
    "PostgresGuest",
    "Schema",
    "load_queries",
    "prepare",
    "translated",
]
