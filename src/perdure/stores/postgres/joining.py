"""New jobs as part of a transaction that is the caller's."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from perdure.databases.postgres import PostgresDatabase, translated
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.job import Job
from perdure.stores.postgres.adding import Adder
from perdure.stores.postgres.aftermath import CHANNEL, NOTIFY, names, notice_of

if TYPE_CHECKING:
    from perdure.databases.postgres import Connection

PLACE: Final = "SELECT current_database()::text, to_regclass('perdure_jobs')::oid"
"""Which table `perdure_jobs` is on a connection."""


class Joining:
    """Adds jobs on connections that it did not make.

    Args:
        database: where the store's own connections lead.
        announce: whether the commit hints at the jobs.
    """

    def __init__(self, database: PostgresDatabase, queries: Mapping[str, str], *, announce: bool) -> None:
        self._database = database
        self._adder = Adder(queries)
        self._announce = announce
        self._place: tuple[Any, ...] | None = None

    async def add(self, given: object, jobs: Sequence[Job]) -> list[Job]:
        """Add the jobs in the transaction that is open on the connection; they come to be when it commits.

        Raises:
            InvalidInput: it is no connection of asyncpg, in no transaction, or leads elsewhere.
            StoreUnavailable: it broke off; nothing of its transaction will be.
        """
        connection = _fit(given)
        with translated(self._database.address):
            await self._check_place(connection)
            # So that a job that is refused does not take the caller's transaction along.
            async with _savepoint(connection):
                stored = await self._adder.any(connection, jobs)
                if self._announce:
                    await connection.execute(NOTIFY, CHANNEL, notice_of(names(stored)))
        return stored

    async def _check_place(self, connection: Connection) -> None:
        """Nobody would ever run a job that came into another database's table."""
        there = await _place(connection)
        if there != self._place:
            self._place = await self._database.run(_place)
        if there != self._place:
            raise InvalidInput(
                f"the connection leads to {_told(there)}, this store's tables are {_told(self._place)} "
                f"({self._database.address}); connect to the same database, with the same search_path"
            )


def _fit(given: object) -> Connection:
    if not isinstance(given, asyncpg.Connection | PoolConnectionProxy):
        kind = type(given)
        raise InvalidInput(
            f"connection is a {kind.__module__}.{kind.__qualname__}; expected one of asyncpg's. SQLAlchemy on asyncpg "
            "gives it by (await connection.get_raw_connection()).driver_connection; with another driver, commit "
            "first, then submit with an idempotency_key"
        )
    if given.is_closed():
        raise StoreUnavailable(
            "the connection is closed, and its transaction gone; open a new one and do all of it again"
        )
    if not given.is_in_transaction():
        raise InvalidInput(
            "the connection is in no transaction, so the job would not wait for a commit; submit it inside "
            "`async with connection.transaction():`, or leave `connection` out"
        )
    return given


async def _place(connection: Connection) -> tuple[Any, ...]:
    row = await connection.fetchrow(PLACE)
    return () if row is None else tuple(row)


def _told(place: tuple[Any, ...]) -> str:
    database, table = place
    return f"database {database!r}, {'without tables of Perdure' if table is None else f'table {table}'}"


@asynccontextmanager
async def _savepoint(connection: Connection) -> AsyncIterator[None]:
    """Undo what the block did if it raises. By hand: asyncpg's own refuses a transaction begun by a plain BEGIN."""
    await connection.execute("SAVEPOINT perdure")
    try:
        yield
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK TO SAVEPOINT perdure; RELEASE SAVEPOINT perdure")
        raise
    await connection.execute("RELEASE SAVEPOINT perdure")
