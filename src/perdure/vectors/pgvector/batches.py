"""Many small writes in one transaction: a commit and eight round trips for fifty documents instead of for each."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from perdure.domain.errors import StoreUnavailable
from perdure.domain.heads import Place
from perdure.vectors.pgvector.writing import Change

T = TypeVar("T")

HEAVIEST: Final = 512
"""Chunks that are put together."""
LANES: Final = 2
"""Transactions at once: while one is at the server, the next is packed."""


class _Waiting(Generic[T]):
    """A change, and who waits for it."""

    def __init__(self, change: Change[T]) -> None:
        self.change = change
        self.outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def settle(self, outcome: T | BaseException) -> None:
        """Tell who waits, if somebody still does."""
        if self.outcome.done():
            return
        if isinstance(outcome, BaseException):
            self.outcome.set_exception(outcome)
        else:
            self.outcome.set_result(outcome)


class Batches:
    """A queue of writes.

    Args:
        perform: does changes of different documents in one transaction; for each its result, or the error that is its own.
    """

    def __init__(self, perform: Callable[[Sequence[Change[Any]]], Awaitable[Sequence[Any]]]) -> None:
        self._perform = perform
        self._queue: deque[_Waiting[Any]] = deque()
        self._held: set[Place] = set()
        self._workers: set[asyncio.Task[None]] = set()

    async def write(self, change: Change[T]) -> T:
        """Do `change`, alone or with others; durable on return. If it raises, nothing of it is kept."""
        waiting = _Waiting(change)
        self._queue.append(waiting)
        if len(self._workers) < LANES:
            worker = asyncio.create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._ended)
        return await waiting.outcome

    async def drain(self) -> None:
        """Wait until nothing is queued."""
        while self._workers:
            await asyncio.wait(self._workers)

    async def _work(self) -> None:
        await asyncio.sleep(0)  # whoever is ready to write comes along
        while batch := self._next():
            places = {waiting.change.place for waiting in batch}
            self._held |= places
            try:
                await self._do(batch)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.outcome.cancel()
                raise
            finally:
                self._held -= places

    def _ended(self, worker: asyncio.Task[None]) -> None:
        """Let nobody wait for a worker that was cancelled: the event loop is being torn down."""
        self._workers.discard(worker)
        if worker.cancelled():
            for waiting in self._queue:
                waiting.outcome.cancel()
            self._queue.clear()

    async def _do(self, batch: list[_Waiting[Any]]) -> None:
        try:
            outcomes = await self._perform([waiting.change for waiting in batch])
        except Exception as error:  # noqa: BLE001 (whatever it was, who waits must hear of it)
            if len(batch) > 1 and not isinstance(error, StoreUnavailable):
                for waiting in batch:  # so that each hears of its own trouble only
                    await self._do([waiting])
                return
            outcomes = [error] * len(batch)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            waiting.settle(outcome)

    def _next(self) -> list[_Waiting[Any]]:
        """Take the next batch off the queue: each document once, and none that is being written."""
        batch: list[_Waiting[Any]] = []
        passed, held, weight = list[_Waiting[Any]](), set(self._held), 0
        while self._queue and weight < HEAVIEST:
            waiting = self._queue.popleft()
            if waiting.outcome.cancelled():
                continue
            if waiting.change.place in held:
                passed.append(waiting)
            else:
                batch.append(waiting)
                weight += waiting.change.weight
            held.add(waiting.change.place)
        self._queue.extendleft(reversed(passed))
        return batch
