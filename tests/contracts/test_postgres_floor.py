"""Where a transaction that is held open leaves dead entries before the pending jobs, claims begin behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio

from perdure.domain import transition as move
from perdure.stores.postgres import PostgresJobStore, floor
from perdure.testing.builders import KIND, make_job, make_stamp
from tests.servers.postgres import fresh_database

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]
LEASE = timedelta(minutes=5)


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(url)
    await store.setup()
    yield store
    await store.close()


async def ran(store: PostgresJobStore, limit: int) -> list[str]:
    jobs = await store.claim("w", [KIND], limit, LEASE)
    now = await store.now()
    assert all(await store.apply([move.complete(job, None, make_stamp(now)) for job in jobs]))
    return [job.id for job in jobs]


async def test_every_job_is_claimed_once_also_one_that_was_due_long_ago(
    url: str, store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "SLOW", -1.0)
    monkeypatch.setattr(floor, "CHEAP", -1.0)
    monkeypatch.setattr(floor, "SLACK", timedelta(0))
    report = await asyncpg.connect(url)
    await report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await report.fetch("SELECT count(*) FROM perdure_jobs")
    added: set[str] = set()
    claimed: list[str] = []
    for number in range(12):
        now = await store.now()
        jobs = [make_job(now, tenant=f"tenant-{n % 3}") for n in range(50)]
        if number == 6:
            jobs.append(make_job(now, due_at=now - timedelta(days=1), priority=5))
        await store.add(jobs)
        added |= {job.id for job in jobs}
        claimed += await ran(store, 40)
    assert store._floors[KIND,].since is not None, "claims have begun behind what is dead"
    async with asyncio.timeout(60):
        while len(claimed) < len(added):
            claimed += await ran(store, 40)
            await asyncio.sleep(0.05)
    assert sorted(claimed) == sorted(added)
    await report.close()


async def test_it_begins_at_the_beginning_again_when_a_look_is_cheap(
    store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "SLOW", -1.0)
    monkeypatch.setattr(floor, "CHEAP", 60.0)
    for _ in range(floor.IN_A_ROW + 1):
        await ran(store, 5)
    await asyncio.sleep(0.1)
    assert store._floors[KIND,].since is None


async def test_what_is_overdue_is_found_though_looks_begin_late(
    store: PostgresJobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(floor, "SLOW", -1.0)
    monkeypatch.setattr(floor, "REST", 10_000)
    assert await store.expired(10) == []
    assert store._overdue.begin() > floor.FIRST
    for _ in range(3):
        await store.add([make_job(await store.now())])
        [job] = await store.claim("w", [KIND], 1, timedelta(seconds=0.1))
        assert await store.expired(10) == []
        await asyncio.sleep(0.2)
        assert [late.id for late in await store.expired(10)] == [job.id]
        assert await store.delete(job.tenant, job.id)


async def test_a_purge_in_bites_leaves_nothing_behind(store: PostgresJobStore) -> None:
    now = await store.now()
    jobs = await store.add([make_job(now, ttl=timedelta(seconds=1)) for _ in range(25)])
    for number, job in enumerate(jobs):
        ended = make_stamp(now - timedelta(seconds=3600 - number % 7))
        assert all(await store.apply([move.cancel(job, ended)]))
    assert [await store.purge(10) for _ in range(4)] == [10, 10, 5, 0]
    assert await store.stats(None) == await store.stats("default")
    assert (await store.stats(None)).total == 0
