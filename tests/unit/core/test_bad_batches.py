"""What is too much, or no JSON, or comes while the clock jumps: a clear answer, and nothing half done."""

from __future__ import annotations

import asyncio
import tracemalloc
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from perdure.core.context import Context
from perdure.core.handlers import Handlers
from perdure.core.jobs import JobService
from perdure.core.worker import Worker
from perdure.domain.errors import InvalidInput
from perdure.domain.job import MAX_TOGETHER, NewJob
from perdure.domain.state import JobState
from perdure.stores.memory import MemoryJobStore
from perdure.stores.sqlite import SqliteJobStore
from perdure.testing.clock import MovableClock

from .conftest import POLL


@pytest.mark.slow
async def test_a_hundred_thousand_jobs_in_one_call_are_all_there(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "jobs.db")
    await store.setup()
    service = JobService(store)
    await service.start()
    added = await service.add_many([NewJob(kind="work", payload={"n": n}) for n in range(100_000)])
    assert len({job.id for job in added}) == 100_000
    assert (await service.stats("default")).by_state[JobState.PENDING] == 100_000
    await store.close()


async def test_a_hundred_thousand_payloads_of_a_megabyte_are_refused_in_bounded_memory(
    jobs: JobService,
) -> None:
    large = NewJob(kind="work", payload={"text": "x" * 999_000})
    refusal = r"the first 101 of 100,000 jobs have 100,\d+,\d+ bytes together; at most"
    tracemalloc.start()
    with pytest.raises(InvalidInput, match=refusal):
        await jobs.add_many([large] * 100_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < MAX_TOGETHER / 10
    assert (await jobs.stats(None)).total == 0


async def test_one_that_is_no_json_lets_none_in(jobs: JobService) -> None:
    payloads: list[dict[str, Any]] = [{"n": 1}, {"n": object()}, {"n": 3}]
    with pytest.raises(InvalidInput, match="payload"):
        await jobs.add_many([NewJob(kind="work", payload=payload) for payload in payloads])
    assert (await jobs.stats(None)).total == 0


async def test_a_clock_that_jumps_loses_no_job_and_ends_each_once() -> None:
    """Forward over all leases, and back, which the store's time does not follow."""
    clock = MovableClock()
    store = MemoryJobStore(clock)
    await store.setup()
    service, handlers = JobService(store, poll=POLL), Handlers()
    await service.start()

    async def work(ctx: Context) -> None:
        await asyncio.sleep(0.001)

    handlers.register("work", work, limit=8)
    made = await service.add_many([NewJob(kind="work", max_rescues=1000, ttl=None) for _ in range(300)])
    workers = [Worker(service, handlers, poll=POLL, lease=timedelta(seconds=1)) for _ in range(2)]
    running = [asyncio.create_task(worker.run()) for worker in workers]
    async with asyncio.timeout(60):
        while (await service.stats(None)).by_state.get(JobState.COMPLETED, 0) < len(made):
            for seconds in (3600, -3590):
                clock.advance(timedelta(seconds=seconds))
                await asyncio.sleep(0.02)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    for job in made:
        entries = await store.history(job.tenant, job.id)
        assert [entry.state for entry in entries].count(JobState.COMPLETED) == 1
    await service.close()
    await store.close()
