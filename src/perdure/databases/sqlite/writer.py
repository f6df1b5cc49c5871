"""Group commit: one thread, one transaction for all that is queued, one wait for the disk."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from functools import partial
from typing import Any, Final, Generic, TypeVar

import apsw

from perdure.databases.sqlite.connection import Equipment, Link
from perdure.databases.sqlite.errors import translate

T = TypeVar("T")

BATCH_SECONDS: Final = 0.025
"""How long one transaction may go on taking in queued works, before other processes get their turn."""

YIELD_SECONDS: Final = 0.001
"""As long as others at most wait before they try again (`perdure.databases.sqlite.connection`)."""

ALONE: Final = 100
"""After so many transactions in which nobody else wrote, nobody else does."""


class Work(Generic[T]):
    """A piece of work on its way to the writer thread, and its outcome on the way back."""

    def __init__(self, do: Callable[[apsw.Connection], T], future: asyncio.Future[T]) -> None:
        self._do = do
        self._future = future
        self._result: T
        self.error: BaseException | None = None

    def run(self, connection: apsw.Connection) -> None:
        """Do it in a savepoint. Its own errors undo it alone; one that undid the whole transaction is raised."""
        if self._future.cancelled():
            return
        connection.execute("SAVEPOINT work")
        try:
            self._result = self._do(connection)
        except Exception as error:
            if not connection.in_transaction:  # disk full, I/O error: SQLite has rolled everything back
                raise
            self.error = error
            connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")

    def deliver(self) -> None:
        """Wake up whoever waits for it. Runs in the event loop."""
        if self._future.done():  # cancelled meanwhile
            return
        if self.error is None:
            self._future.set_result(self._result)
        else:
            self._future.set_exception(self.error)


class Writer:
    """The writing connection and its queue."""

    def __init__(
        self,
        path: str,
        link: Link,
        equipment: Sequence[Equipment],
        thread: Executor,
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
    ) -> None:
        self.link = link
        self._path = path
        self._equipment = equipment
        self._thread = thread
        self._loop = loop
        self._changed = changed
        self._queue: deque[Work[Any]] = deque()
        self._version = 0
        self._alone = ALONE
        self._ended = 0.0

    # --- called from the event loop ---------------------------------------------------------

    def submit(self, do: Callable[[apsw.Connection], T]) -> asyncio.Future[T]:
        """Queue a piece of work; its result comes after the commit."""
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.append(Work(do, future))
        if len(self._queue) == 1:  # otherwise the thread has been called already
            self._thread.submit(self._commit_queued)
        return future

    def _deliver(self, batch: Sequence[Work[Any]], *, changed: bool) -> None:
        for work in batch:
            work.deliver()
        if changed:
            self._changed()

    # --- called from the writer thread ------------------------------------------------------

    def close(self) -> None:
        """Do what is still queued, and close the connection."""
        self._commit_queued()
        self.link.connection.close()

    def data_version(self) -> int:
        """A number that changes when somebody else commits."""
        return int(self.link.connection.pragma("data_version"))

    def _commit_queued(self) -> None:
        while self._queue:
            batch: list[Work[Any]] = []
            before = self.link.connection.total_changes()
            try:
                self._give_way()
                self._transact(batch)
            except Exception as error:  # noqa: BLE001 (whatever it was, those who wait must hear of it)
                self._undo(batch, error)
            changed = self.link.connection.total_changes() != before
            self._report(batch, changed=changed)

    def _give_way(self) -> None:
        """Let other processes in, if they write at all: SQLite knows no queue, and whoever asks again at once
        after a commit mostly gets the lock again.
        """
        version = self.data_version()
        if version != self._version:
            self._version, self._alone = version, 0
        since = time.monotonic() - self._ended
        if self._alone < ALONE and since < YIELD_SECONDS:
            time.sleep(YIELD_SECONDS - since)
        self._alone += 1

    def _transact(self, batch: list[Work[Any]]) -> None:
        """Move works from the queue to `batch`, doing them, and commit."""
        connection = self.link.equip(self._equipment)
        connection.execute("BEGIN IMMEDIATE")
        deadline = time.monotonic() + BATCH_SECONDS
        while self._queue and (not batch or time.monotonic() < deadline):
            work = self._queue.popleft()
            batch.append(work)
            work.run(connection)
        connection.execute("COMMIT")
        self._ended = time.monotonic()

    def _undo(self, batch: list[Work[Any]], error: Exception) -> None:
        """Nothing of the batch was kept: all of it fails."""
        with suppress(apsw.Error):
            if self.link.connection.in_transaction:
                self.link.connection.execute("ROLLBACK")
        if not batch:  # the transaction did not even begin
            batch.extend(self._queue.popleft() for _ in range(len(self._queue)))
        for work in batch:
            work.error = work.error or error

    def _report(self, batch: Sequence[Work[Any]], *, changed: bool) -> None:
        for work in batch:
            if isinstance(work.error, apsw.Error):
                work.error = translate(work.error, self._path)
            elif isinstance(work.error, StopIteration):  # which no future takes
                work.error = RuntimeError("StopIteration came out of a work")
        try:
            self._loop.call_soon_threadsafe(partial(self._deliver, batch, changed=changed))
        except RuntimeError:  # the event loop is closed: nobody waits any more
            return
