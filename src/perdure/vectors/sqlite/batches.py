"""Many small writes in one.

The index of words writes out what it gathered whenever a savepoint begins, which doubles its cost for small documents.
So writes that come in while another is under way are put together into one piece of work for the database, with one savepoint.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Generic, NamedTuple, TypeVar

import apsw

from perdure.databases.sqlite import SqliteDatabase
from perdure.domain.heads import Place
from perdure.vectors.sqlite.writing import Writing

T = TypeVar("T")


class Change(NamedTuple, Generic[T]):
    """A write.

    Attributes:
        places: of the documents that it writes.
        weight: how many chunks it writes, about.
    """

    work: Callable[[Writing], T]
    places: Sequence[Place] = ()
    weight: int = 1


HEAVIEST: Final = 256
"""Chunks that are put together: some 30 ms of work, before others get their turn to write."""


class _Waiting(Generic[T]):
    """A change, and who waits for it."""

    def __init__(self, change: Change[T]) -> None:
        self.change = change
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def succeed(self, result: T) -> None:
        """Give the result to who waits, if somebody still does."""
        if not self.outcome.done():
            self.outcome.set_result(result)

    def fail(self, error: Exception) -> None:
        """Give the error to who waits, if somebody still does."""
        if not self.outcome.done():
            self.outcome.set_exception(error)


class Batches:
    """A queue of writes in front of a database."""

    def __init__(self, database: SqliteDatabase) -> None:
        self._database = database
        self._queue: deque[_Waiting[Any]] = deque()
        self._batch: list[_Waiting[Any]] = []
        self._worker: asyncio.Task[None] | None = None

    async def write(self, change: Change[T]) -> T:
        """Do `change` in a transaction, alone or with others; durable on return. If it raises, nothing of it is kept."""
        waiting = _Waiting(change)
        self._queue.append(waiting)
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
            self._worker.add_done_callback(self._ended)
        return await waiting.outcome

    async def drain(self) -> None:
        """Wait until nothing is queued."""
        while self._worker is not None:
            await asyncio.wait([self._worker])

    async def _work(self) -> None:
        while self._next():
            await self._do(self._batch)
        self._worker = None

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Let nobody wait for a worker that was cancelled: the event loop is being torn down."""
        if worker.cancelled():
            self._worker = None
            for one in (*self._batch, *self._queue):
                one.outcome.cancel()
            self._queue.clear()

    async def _do(self, batch: Sequence[_Waiting[Any]]) -> None:
        try:
            results = await self._database.write(partial(_together, [one.change for one in batch]))
        except Exception as error:  # noqa: BLE001 (whatever it was, who waits must hear of it)
            if len(batch) == 1:
                batch[0].fail(error)
                return
            for one in batch:  # so that each hears of its own trouble only
                await self._do([one])
        else:
            for one, result in zip(batch, results, strict=True):
                one.succeed(result)

    def _next(self) -> bool:
        """Take the next batch off the queue; whether there is any."""
        self._batch, weight = [], 0
        while self._queue and (not self._batch or weight + self._queue[0].change.weight <= HEAVIEST):
            waiting = self._queue.popleft()
            if not waiting.outcome.cancelled():
                weight += waiting.change.weight
                self._batch.append(waiting)
        return bool(self._batch)


def _together(changes: Sequence[Change[Any]], connection: apsw.Connection) -> list[Any]:
    writing = Writing(connection, {place for change in changes for place in change.places})
    results = [change.work(writing) for change in changes]
    writing.finish()
    return results
