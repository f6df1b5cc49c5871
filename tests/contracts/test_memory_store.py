"""The memory store keeps the contract, with a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest_asyncio

from perdure.ports.job_store import Capabilities, Change, JobStore
from perdure.stores.memory import MemoryJobStore
from perdure.stores.memory.listener import MAX_HINTS, Listener
from perdure.testing import JobStoreContract
from perdure.testing.builders import KIND, make_job
from perdure.testing.clock import MovableClock


class TestMemoryJobStore(JobStoreContract):
    capabilities = Capabilities(
        durable=False,
        multi_process=False,
        change_feed=True,
        native_ttl=False,
        constant_stats=True,
        transactions=True,
    )
    clock: MovableClock

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[MemoryJobStore]:
        self.clock = MovableClock()
        store = MemoryJobStore(self.clock)
        await store.setup()
        yield store
        await store.close()

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))

    async def test_its_time_stands_still_while_the_clock_is_behind(self, store: JobStore) -> None:
        now = await store.now()
        await store.add([make_job(now)])
        self.clock.advance(timedelta(hours=-1))
        assert await store.now() == now
        [job] = await store.claim("w", [KIND], 1, timedelta(minutes=1))
        assert job.due_at == now + timedelta(minutes=1)
        self.clock.advance(timedelta(hours=2))
        assert await store.now() == now + timedelta(hours=1)


async def hints(listener: Listener) -> list[Change]:
    listener.end()
    return [change async for change in listener.changes()]


async def test_hints_of_one_job_become_one() -> None:
    listener = Listener()
    for job_id in ("a", "b", "a", "a"):
        listener.tell(Change(tenant="acme", job_id=job_id))
    assert await hints(listener) == [Change(tenant="acme", job_id="a"), Change(tenant="acme", job_id="b")]


async def test_too_many_hints_become_one_about_anything() -> None:
    listener = Listener()
    for number in range(MAX_HINTS + 2):
        listener.tell(Change(job_id=str(number)))
    assert await hints(listener) == [Change(), Change(job_id=str(MAX_HINTS + 1))]
