"""What lives in an SQLite file that others may share: opened by `setup`, given back by `close`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import apsw

from perdure.databases.sqlite.connection import Equipment
from perdure.databases.sqlite.database import SqliteDatabase
from perdure.domain.errors import StoreUnavailable

T = TypeVar("T")


class SqliteGuest:
    """The part of a store that all in an SQLite file share.

    Args:
        path: the file, which others may share; ":memory:" for a private one that dies with this object.
        what: what it is, for errors. component, steps: its tables; see `SqliteDatabase.migrate`.
        equipment: of its connections; see `SqliteDatabase.equip`.
    """

    def __init__(
        self,
        path: str | Path,
        what: str,
        component: str,
        steps: Sequence[str],
        equipment: Equipment | None = None,
    ) -> None:
        self._path, self._what = path, what
        self._component, self._steps, self._equipment = component, steps, equipment
        self._database: SqliteDatabase | None = None
        self._setting_up = asyncio.Lock()

    async def setup(self) -> None:
        """See the port."""
        async with self._setting_up:
            if self._database is None:
                self._database = await SqliteDatabase.open(self._path)
            try:
                if self._equipment is not None:
                    await self._database.equip(self._equipment)
                await self._database.migrate(self._component, self._steps)
                await self._sweep()
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """See the port."""
        database, self._database = self._database, None
        if database is not None:
            await database.close()

    async def _sweep(self) -> None:
        """Remove what is left over, where there may be something."""

    def _opened(self) -> SqliteDatabase:
        if self._database is None:
            raise self._shut()
        return self._database

    def _shut(self) -> StoreUnavailable:
        return StoreUnavailable(
            f"the {self._what} {self._path} is closed, or was not set up; call setup() first"
        )

    async def _write(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._opened().write(work)

    async def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        return await self._opened().read(work)
