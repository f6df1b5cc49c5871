"""One SQLite file, shared by everything in the process that lives in it.

Writes go through one thread that commits whatever came in meanwhile together, so that many small writes share
one wait for the disk; reads run beside it, each on a snapshot of its own. Any number of processes may use
the file at once, on a local disk: network file systems do not lock well enough for SQLite.

After a fork, open again in the child; never use what the parent opened. And do not open the file by other means
in the same process (`sqlite3`, `open`): closing it there would drop the locks held here (see "How To Corrupt
An SQLite Database File" §2.2 at sqlite.org).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar
from weakref import WeakKeyDictionary

import apsw

from perdure.databases.sqlite.connection import Equipment, Link
from perdure.databases.sqlite.errors import translated
from perdure.databases.sqlite.schema import migrate, version_of
from perdure.databases.sqlite.watch import Watch, Watchers
from perdure.databases.sqlite.writer import Writer
from perdure.domain.errors import StoreUnavailable

T = TypeVar("T")

MEMORY: Final = ":memory:"
READERS: Final = 4
"""Reads that can run at once."""

_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, SqliteDatabase]] = WeakKeyDictionary()
os.register_at_fork(after_in_child=_shared.clear)


class SqliteDatabase:
    """A file with its connections. Get one by `open`; each who opened it closes it once."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        """For `open` only."""
        self.path = path
        self._loop = loop
        self._holders = 0
        self._opening = asyncio.Lock()
        self._equipment: list[Equipment] = []
        self._watchers = Watchers(self._data_version)
        self._writer_thread = ThreadPoolExecutor(1, thread_name_prefix="perdure-sqlite-writer")
        self._writer: Writer | None = None
        # A database in memory is visible to one connection only, so that one thread does everything.
        self._reader_threads = (
            self._writer_thread
            if path == MEMORY
            else ThreadPoolExecutor(READERS, thread_name_prefix="perdure-sqlite-reader")
        )
        self._idle_readers: list[Link] = []

    # --- opening and closing ----------------------------------------------------------------

    @classmethod
    async def open(cls, path: str | Path) -> SqliteDatabase:
        """Open the file at `path`, creating it if need be; ":memory:" gives a private one that dies with it.

        Within one event loop the same path gives the same object; it goes when all who opened it closed it.

        Raises:
            StoreCorrupt: the file is no SQLite database.
            StoreError: the folder is missing, or this user may not write there.
            StoreUnavailable: the disk is full or does not answer.
        """
        loop = asyncio.get_running_loop()
        database = cls._find(loop, path)
        database._holders += 1
        try:
            async with database._opening:
                if database._writer is None:
                    await loop.run_in_executor(database._writer_thread, database._connect)
        except BaseException:
            await database.close()
            raise
        return database

    @classmethod
    def _find(cls, loop: asyncio.AbstractEventLoop, path: str | Path) -> SqliteDatabase:
        if str(path) == MEMORY:
            return cls(MEMORY, loop)
        resolved = str(Path(path).resolve())
        known = _shared.setdefault(loop, {})
        if resolved not in known:
            known[resolved] = cls(resolved, loop)
        return known[resolved]

    def _connect(self) -> None:
        with translated(self.path):
            link = Link(self.path, writes=True)
        self._writer = Writer(
            self.path, link, self._equipment, self._writer_thread, self._loop, self._watchers.notify
        )

    async def close(self) -> None:
        """Give the database back; the last to do so waits for the writes under way and closes the file."""
        if self._holders != 1:
            self._holders = max(0, self._holders - 1)
            return
        self._holders = 0
        shared = _shared.get(self._loop, {})
        if shared.get(self.path) is self:
            del shared[self.path]
        self._watchers.close()
        try:
            await self._loop.run_in_executor(self._writer_thread, self._disconnect)
        finally:
            self._writer_thread.shutdown(wait=False)

    def _disconnect(self) -> None:
        """Runs in the writer thread, as the last thing it does."""
        if self._reader_threads is not self._writer_thread:
            self._reader_threads.shutdown(wait=True)
        with translated(self.path):
            for link in self._idle_readers:
                link.connection.close()
            if self._writer is not None:
                self._writer.close()

    # --- using it ---------------------------------------------------------------------------

    async def write(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in the writer thread, inside a transaction; durable on return.

        Works queued meanwhile share the transaction, each in a savepoint of its own: one that raises is undone alone,
        and its exception comes out here. `work` runs once, must not wait for anything but the database, and must not
        commit. A caller that is cancelled does not know whether the work was done.

        Raises:
            StoreError: what SQLite says, in our words.
        """
        return await self._open_writer().submit(work)

    async def read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Run `work` in a reader thread, on one consistent snapshot of what was committed before.

        Raises:
            StoreError: what SQLite says, in our words; so it does if `work` tries to write.
        """
        self._open_writer()
        return await self._loop.run_in_executor(self._reader_threads, self._read, work)

    async def equip(self, equipment: Equipment) -> None:
        """Let `equipment` be called once with every connection, those already open and those to come, before
        work runs on it: to load an extension, or to define a function. Giving the same one twice counts once.

        Raises:
            StoreError: it failed on the first connection, and is forgotten.
        """
        if equipment in self._equipment:
            return
        link = self._open_writer().link
        await self._loop.run_in_executor(self._writer_thread, self._equip, link, equipment)

    async def migrate(self, component: str, steps: Sequence[str]) -> None:
        """Bring the tables of `component` to version ``len(steps)``, by the SQL scripts that are missing.

        Each component (jobs, vectors, …) counts its own versions. Any number of processes may do so at once.

        Raises:
            SchemaMismatch: a newer Perdure was here before.
        """
        if await self.read(lambda connection: version_of(connection, component)) != len(steps):
            await self.write(lambda connection: migrate(connection, self.path, component, steps))

    def watch(self) -> Watch:
        """Watch for commits, here and (within about 50 ms) in other processes. Ends when the database closes."""
        self._open_writer()
        return self._watchers.watch()

    # --- behind it --------------------------------------------------------------------------

    def _open_writer(self) -> Writer:
        if self._writer is None or self._holders <= 0:
            raise StoreUnavailable(f"{self.path} was closed; open it again")
        return self._writer

    def _equip(self, link: Link, equipment: Equipment) -> None:
        """Runs in the writer thread, whose connection is the first to get it."""
        with translated(self.path):
            link.equip((*self._equipment, equipment))
        self._equipment.append(equipment)

    def _read(self, work: Callable[[apsw.Connection], T]) -> T:
        """Runs in a reader thread."""
        with translated(self.path):
            link = self._borrow()
            try:
                connection = link.equip(self._equipment)
                connection.execute("BEGIN")
                return work(connection)
            finally:
                if link.connection.in_transaction:
                    link.connection.execute("ROLLBACK")
                self._give_back(link)

    def _borrow(self) -> Link:
        if self._reader_threads is self._writer_thread:
            return self._open_writer().link
        return self._idle_readers.pop() if self._idle_readers else Link(self.path, writes=False)

    def _give_back(self, link: Link) -> None:
        if self._reader_threads is not self._writer_thread:
            self._idle_readers.append(link)

    async def _data_version(self) -> int:
        """A number that changes when somebody else commits; the writer's connection does not count its own."""
        return await self._loop.run_in_executor(self._writer_thread, self._open_writer().data_version)
