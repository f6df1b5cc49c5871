"""A tracker, its store, and a line between the two that can be cut."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, cast

import pytest

from perdure.core.jobs import JobService
from perdure.core.tracking import Tracker
from perdure.domain.errors import StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.ports.job_store import JobStore
from perdure.stores.memory import MemoryJobStore
from perdure.testing.clock import MovableClock

LEASE = timedelta(seconds=0.15)
"""Heartbeats come three times as often; the store's clock is moved by hand, so that no lease ends by itself."""


class Line:
    """What lies between a tracker and its store: it may be cut, or lose answers."""

    def __init__(self, store: MemoryJobStore) -> None:
        self._store = store
        self.cut: Exception | None = None
        self.lose: Callable[[], bool] = lambda: False
        self.calls: list[str] = []
        self.refuse: Callable[[list[Any]], Exception | None] = lambda _batch: None

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._store, name)

        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if self.cut:
                raise self.cut
            if name in {"add", "apply"} and (refused := self.refuse(arguments[0])):
                raise refused
            answer = await method(*arguments)
            if self.lose():
                raise StoreUnavailable("the answer got lost")
            return answer

        return call


class House:
    """A store, the line to it, and somebody who looks at it from the other side."""

    def __init__(self) -> None:
        self.clock = MovableClock()
        self.store = MemoryJobStore(self.clock)
        self.line = Line(self.store)
        self.here = JobService(self.store)

    @asynccontextmanager
    async def tracker(self, *, grace: float = 20, **options: Any) -> AsyncIterator[Tracker]:
        jobs = JobService(cast(JobStore, self.line))
        tracker = Tracker(jobs, **({"lease": LEASE} | options))
        try:
            yield tracker
        finally:
            await tracker.aclose(grace)

    def cut(self) -> None:
        self.line.cut = StoreUnavailable("db.example:5432 does not answer")

    def mend(self) -> None:
        self.line.cut = None

    async def until_tried(self, tracker: Tracker) -> None:
        """Until the tracker has found out that the line is cut."""
        before = len(self.line.calls)
        await until(lambda: len(self.line.calls) > before + 1)

    async def bury(self) -> int:
        """An hour goes by without heartbeats, and maintenance looks around."""
        self.clock.advance(timedelta(hours=1))
        await self.here.start()
        return await self.here.settle_overdue("maintenance")

    async def job(self, job_id: str) -> Job:
        return await self.here.get(job_id, tenant="default")

    async def history(self, job_id: str) -> list[Event]:
        return [entry.event for entry in await self.store.history("default", job_id)]


async def until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(120):
        while not holds():
            await asyncio.sleep(0.005)


async def written(tracker: Tracker) -> None:
    await until(lambda: not tracker.waiting)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def infos(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]


async def failing(tracker: Tracker, error: BaseException, **options: Any) -> str:
    """Work that an exception ends, which goes on as it is; the record's id."""
    work = tracker.track("work", **options)

    async def block() -> None:
        async with work:
            work.result = {"half": True}
            raise error

    with pytest.raises(type(error)) as caught:
        await block()
    assert caught.value is error
    assert error.__cause__ is error.__context__ is None
    return work.id


async def run(tracker: Tracker, number: int, first: int = 0) -> list[str]:
    """Units of work of all three ends; their ids."""
    ids = []
    for n in range(first, first + number):
        try:
            async with tracker.track("work", payload={"n": n}) as work:
                ids.append(work.id)
                work.progress(0.5)
                await asyncio.sleep(0)
                work.result = n
                if n % 3 == 1:
                    raise ValueError(f"{n} is torn")
                if n % 3 == 2:
                    raise asyncio.CancelledError
        except (ValueError, asyncio.CancelledError):
            pass
    return ids


async def right(house: House, ids: list[str]) -> None:
    """Each is there once, in its state, with one end."""
    ends = {JobState.COMPLETED: 0, JobState.FAILED: 1, JobState.CANCELLED: 2}
    for n, job_id in enumerate(ids):
        job = await house.job(job_id)
        assert (ends[job.state], job.payload) == (n % 3, {"n": n})
        assert job.result == (n if n % 3 == 0 else None)
        end = (await house.history(job_id))[-1]
        assert end == job.state.value
        assert (await house.history(job_id)).count(end) == 1
    assert await house.store.count(JobFilter(tenant=None)) == len(ids)
    assert (await house.store.stats(None)).unfinished == 0
