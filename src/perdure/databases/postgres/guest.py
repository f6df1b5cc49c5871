"""What lives in a PostgreSQL database that others may share: it holds the database until it is closed."""

from __future__ import annotations

from typing import Any

from perdure.databases.postgres.database import PostgresDatabase
from perdure.databases.postgres.migrate import Schema, prepare
from perdure.domain.errors import StoreUnavailable


class PostgresGuest:
    """The part of a store that all in a PostgreSQL database share.

    Args:
        where: a URL, or a database that others hold too; it is closed with its last holder.
        what: what it is, for errors. schema: its tables.
    """

    def __init__(self, where: str | PostgresDatabase, what: str, schema: Schema) -> None:
        self._database = PostgresDatabase(where) if isinstance(where, str) else where
        self._database.hold(self)
        self._what, self._schema = what, schema
        self._closed = False

    async def setup(self) -> None:
        """See the port."""
        database = self._here()
        await prepare(database, self._schema, change=database.options.migrate == "on")

    async def close(self) -> None:
        """See the port."""
        self._closed = True
        await self._database.release(self)

    def _here(self) -> PostgresDatabase:
        if self._closed:
            raise StoreUnavailable(f"the {self._what} in {self._database.address} was closed; open it again")
        return self._database

    async def _run(self, statement: str, *values: object) -> list[Any]:
        return await self._here().run(lambda connection: connection.fetch(statement, *values))
