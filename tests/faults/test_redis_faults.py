"""The Redis store when things go wrong: killed servers, lost answers, refusals, settings that lose jobs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from perdure.domain import transition as move
from perdure.domain.errors import (
    CursorLost,
    InvalidInput,
    PerdureError,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from perdure.domain.query import JobFilter
from perdure.ports.job_store import JobStore
from perdure.stores.redis import RedisJobStore
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.testing.jobs.base import LEASE, running
from tests.faults.suite import AnswerSuite, KillSuite, Line
from tests.servers.redis import RedisServer, binaries, fresh, redis_server, sentinel

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("redis")]

PASSWORD = "s3cret-of-the-house"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisJobStore]:
    store = RedisJobStore(url)
    try:
        await store.setup()
        yield store
    finally:
        await store.close()


@pytest.fixture(params=binaries())
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    with redis_server(request.param) as server:
        yield server


@pytest.mark.fault
class TestRedisFaults(AnswerSuite, KillSuite):
    asks_first = True
    words: ClassVar = {"": (b"", b"")}  # any answer: each call is one command

    @pytest.fixture
    def url(self, server: RedisServer) -> str:
        return fresh(server.url)

    def make(self, url: str, patience: float) -> RedisJobStore:
        return RedisJobStore(url)

    async def test_a_purge_is_repeated(self, store: JobStore, lossy: JobStore, line: Line) -> None:
        now = await store.now()
        jobs = await store.add([make_job(now, ttl=timedelta(milliseconds=1)) for _ in range(3)])
        assert all(await store.apply([move.cancel(job, make_stamp(now - LEASE)) for job in jobs]))
        await self.unheard(line, "purge", 1, lambda: lossy.purge(2))
        assert await store.purge(5) == 1
        assert (await store.stats(None)).total == 0


async def test_scripts_are_given_again_to_a_server_that_forgot_them(server: RedisServer) -> None:
    async with opened(server.url) as store:
        assert server.say("SCRIPT", "FLUSH").startswith(b"+OK")
        job = make_job(await store.now())
        assert await store.add([job]) == [job]


# --- what lies in the server ----------------------------------------------------------------


async def test_a_log_that_was_cut_says_so_to_whoever_comes_from_before(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the cut itself nothing is missing."""
    monkeypatch.setattr("perdure.stores.redis.store.LOG", 3)
    async with opened(fresh(server.url)) as store:
        places = [(await store.entries(None, 9)).next]
        for _ in range(6):
            job = await running(store)
            assert await store.apply([move.complete(job, 0, make_stamp(await store.now()))]) == [True]
            places.append((await store.entries(None, 9)).next)
        await store.purge(10)
        assert [len((await store.entries(place, 9)).lines) for place in places[3:]] == [3, 2, 1, 0]
        for place in places[:3]:
            with pytest.raises(CursorLost, match="read on from its end"):
                await store.entries(place, 9)


async def test_all_keys_lie_in_one_slot_and_vanish_with_their_jobs(server: RedisServer) -> None:
    url = fresh(server.url)
    async with opened(url) as store, Redis.from_url(server.url) as client:
        now = await store.now()
        jobs = [
            make_job(
                now,
                tenant=tenant,
                kind=kind,
                idempotency_key=f"key-{kind}",
                user_id="ann",
                document_id="d",
                due_at=now + late,
            )
            for tenant in ("acme", "bolt")
            for kind in ("work", "report")
            for late in (timedelta(0), timedelta(hours=1))
        ]
        kept = {job.id: job for job in await store.add(jobs)}.values()
        taken = await store.claim("w", ["work", "report"], 2, LEASE)
        assert await store.apply([move.complete(taken[0], 1, make_stamp(now))]) == [True]
        keys = {key async for key in client.scan_iter()}
        assert len(keys) > 20
        assert len({key_slot(key) for key in keys}) == 1
        for job in kept:
            assert await store.delete(job.tenant, job.id)
        assert await store.claim("w", ["work", "report"], 2, LEASE) == []
        left = {key.rpartition(b"}|")[2] async for key in client.scan_iter()}
        # The log is cut by its length; tenants' names stay.
        stays = {b"schema", b"turn", b"log", b"tenants"}
        assert {name for name in left if not name.startswith(b"asleep")} <= stays


async def test_a_job_that_the_server_evicted_blocks_no_other(server: RedisServer) -> None:
    async with opened(server.url) as store, Redis.from_url(server.url) as client:
        now = await store.now()
        jobs = await store.add([make_job(now, ttl=timedelta(milliseconds=1)) for _ in range(4)])
        await client.delete(f"{{perdure}}|job|{jobs[0].id}")
        taken = await store.claim("w", [KIND], 4, LEASE)
        assert [job.id for job in taken] == [job.id for job in jobs[1:]]
        await store.apply([move.complete(job, None, make_stamp(now - LEASE)) for job in taken])
        await client.delete(f"{{perdure}}|job|{jobs[1].id}")
        assert await store.purge(10) == 3
        assert await store.purge(10) == 0


async def test_two_prefixes_are_two_stores(server: RedisServer) -> None:
    async with opened(fresh(server.url)) as one, opened(fresh(server.url)) as two:
        await one.add([make_job(await one.now())])
        assert await two.count(JobFilter(tenant=None)) == 0


async def test_foreign_keys_are_refused(server: RedisServer) -> None:
    async with Redis.from_url(server.url) as client:
        await client.hset("{alien}|schema", "a", "b")
    store = RedisJobStore(f"{server.url}?prefix=alien")
    with pytest.raises(StoreCorrupt, match="prefix"):
        await store.setup()
    await store.close()


# --- servers that lose jobs, and servers that refuse ----------------------------------------


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({"appendonly": "no"}, "append-only file is off"),
        ({"appendfsync": "everysec"}, "appendfsync is everysec"),
        ({"maxmemory-policy": "allkeys-lru"}, "drops jobs"),
        ({"rename-command": "CONFIG forbidden"}, "CONFIG is forbidden"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_a_server_that_may_lose_jobs_is_named_loudly(
    options: dict[str, str], warning: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    if "rename-command" in options:  # has two arguments, which only a file can give
        include = tmp_path / "more.conf"
        include.write_text('rename-command CONFIG "CONFIG-of-the-operator"\n')
        options = {"include": str(include)}
    with redis_server(**options) as server, caplog.at_level(logging.WARNING):
        async with opened(server.url) as store:
            assert not store.capabilities.durable
    [record] = caplog.records
    assert warning in record.getMessage()
    assert "appendfsync always" in record.getMessage() or "noeviction" in record.getMessage()


async def test_a_safe_server_is_not_warned_about(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server.url) as store:
        assert store.capabilities.durable
    assert not caplog.records


async def refused(url: str) -> PerdureError:
    """What setting up says about this URL."""
    with pytest.raises(PerdureError) as caught:
        async with opened(url):
            pass
    assert PASSWORD not in str(caught.value)
    return caught.value


async def test_nobody_there_is_unavailable() -> None:
    with redis_server() as server:
        server.stop()
        error = await refused(f"redis://ann:{PASSWORD}@127.0.0.1:{server.port}/0")
    assert isinstance(error, StoreUnavailable)
    assert "cannot be reached" in str(error)


@pytest.mark.parametrize("kind", binaries())
async def test_a_wrong_password_or_database_says_what_to_do(kind: str) -> None:
    with redis_server(kind, requirepass=PASSWORD) as server:
        where = f"127.0.0.1:{server.port}"
        assert "wants a password" in str(await refused(f"redis://{where}"))
        assert "refused the user or password" in str(await refused(f"redis://:{PASSWORD}-not@{where}"))
        assert "no such database" in str(await refused(f"redis://:{PASSWORD}@{where}/9999"))
        async with opened(f"redis://:{PASSWORD}@{where}/3") as store:
            assert await store.count(JobFilter(tenant=None)) == 0


async def test_a_cluster_behind_a_plain_url_is_named() -> None:
    with redis_server(**{"cluster-enabled": "yes"}) as node:
        error = await refused(node.url)
    assert isinstance(error, StoreError)
    assert "cluster" in str(error)


async def test_through_sentinels_the_primary_is_found() -> None:
    with redis_server() as primary, sentinel(primary, "house") as watcher:
        job = make_job(datetime.now(UTC))
        async with opened(f"redis+sentinel://127.0.0.1:{watcher.port}/house/2") as store:
            assert await store.add([job]) == [job]
        async with opened(f"{primary.url}/2") as store:
            assert await store.get(job.tenant, job.id) == job


@pytest.mark.parametrize(
    "url",
    [
        "postgres://127.0.0.1",
        "redis://127.0.0.1?prefix=a|b",
        "redis+sentinel://127.0.0.1:26379",
        "redis://127.0.0.1?colour=blue",
        "redis://127.0.0.1:port/0",
        "redis://127.0.0.1/many",
    ],
)
def test_a_url_that_cannot_be_is_refused_at_once(url: str) -> None:
    with pytest.raises(InvalidInput):
        RedisJobStore(url)


@pytest.mark.fault
async def test_a_batch_of_a_hundred_thousand_is_all_or_nothing(server: RedisServer) -> None:
    async with opened(server.url) as store:
        now = await store.now()
        jobs = [make_job(now) for _ in range(100_000)]
        adding = asyncio.create_task(store.add(jobs))
        await asyncio.sleep(0.6)
        server.kill()
        with suppress(StoreUnavailable):
            await adding
        await asyncio.to_thread(server.start)
        assert await store.count(JobFilter(tenant=None)) in {0, len(jobs)}
        assert await store.add(jobs) == jobs
        assert (await store.stats(None)).total == len(jobs)
