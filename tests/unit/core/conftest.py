"""A job service over a memory store, and workers that end with their test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import pytest

from perdure.core import replay
from perdure.core.context import Context
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.stores.memory import MemoryJobStore
from tests.unit.core.tracked import House

POLL = timedelta(seconds=0.02)


@pytest.fixture
def store() -> MemoryJobStore:
    return MemoryJobStore()


@pytest.fixture
async def jobs(store: MemoryJobStore, handlers: Handlers) -> AsyncIterator[JobService]:
    await store.setup()
    service = JobService(store, poll=POLL)
    service.attempts_of = handlers.attempts_of
    await service.start()
    yield service
    await service.close()
    await store.close()


@pytest.fixture
def handlers() -> Handlers:
    return Handlers()


@pytest.fixture
async def house(monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setattr(replay, "LONGEST_PAUSE", 0.05)
    return House()


StartWorker = Callable[..., Worker]


@pytest.fixture
async def start(jobs: JobService, handlers: Handlers) -> AsyncIterator[StartWorker]:
    """Start a worker; it is drained when the test ends."""
    async with AsyncExitStack() as stack:

        def begin(service: JobService = jobs, **options: Any) -> Worker:
            worker = Worker(service, handlers, **({"poll": POLL, "grace": timedelta(seconds=2)} | options))
            running = asyncio.create_task(worker.run())

            async def end() -> None:
                worker.stop()
                await running

            stack.push_async_callback(end)
            return worker

        yield begin


async def kept(jobs: JobService, ctx: Context) -> None:
    """Wait until the running job's lease was extended."""
    until = ctx.job.due_at
    while (await jobs.get(ctx.job.id, tenant=ctx.job.tenant)).due_at == until:
        await asyncio.sleep(0.01)
