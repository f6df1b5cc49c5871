"""The PostgreSQL store keeps the contract, on a real server, directly and behind a pooler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from urllib.parse import urlsplit

import asyncpg
import pytest
import pytest_asyncio
from msgspec.structs import replace

from perdure.databases.postgres import PostgresDatabase
from perdure.domain.errors import InvalidInput, StoreError
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.domain.transition import cancel
from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.postgres import PostgresJobStore
from perdure.testing import JobStoreContract
from perdure.testing.builders import make_job, make_stamp
from tests.servers.postgres import fresh_schema
from tests.servers.postgres_pooler import Pooler, transaction_pooler

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

LEASE = timedelta(minutes=5)
ABILITIES = Capabilities(
    durable=True,
    multi_process=True,
    change_feed=True,
    native_ttl=False,
    constant_stats=True,
    transactions=True,
    joins=True,
)


async def opened(url: str) -> PostgresJobStore:
    store = PostgresJobStore(PostgresDatabase(url))
    await store.setup()
    return store


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_schema(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    store = await opened(url)
    yield store
    await store.close()


async def jobs_for(store: PostgresJobStore, number: int, **over: object) -> list[Job]:
    now = await store.now()
    return [make_job(now, **over) for _ in range(number)]


class TestPostgresJobStore(JobStoreContract):
    capabilities = ABILITIES
    url: str

    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[PostgresJobStore]:
        self.url = url
        store = await opened(url)
        yield store
        await store.close()

    async def second(self, store: JobStore) -> JobStore:
        return await opened(self.url)


# --- what goes beyond the contract ------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 3, 80])
async def test_nul_is_refused_and_nothing_is_written(store: PostgresJobStore, number: int) -> None:
    jobs = await jobs_for(store, number - 1)
    with pytest.raises(InvalidInput, match="0x00"):
        await store.add([*jobs, *await jobs_for(store, 1, user_id="a\0b")])
    assert await store.count(JobFilter(tenant=None)) == (await store.stats(None)).total == 0


async def test_many_at_once_with_one_that_is_there(store: PostgresJobStore) -> None:
    """COPY takes none of them; they go in one by one, and those that are there stay as they are."""
    known = await store.add(await jobs_for(store, 60))
    ended = cancel(known[3], make_stamp(await store.now()))
    assert await store.apply([ended]) == [True]
    fresh = await jobs_for(store, 60)
    assert await store.add([*fresh, *known]) == [*fresh, *known[:3], ended.after, *known[4:]]
    assert (await store.stats(None)).counts == {"work": {JobState.PENDING: 119, JobState.CANCELLED: 1}}


async def test_counts_stay_right_while_they_are_folded(store: PostgresJobStore, url: str) -> None:
    for _ in range(270):  # more calls than it takes to fold
        await store.add(await jobs_for(store, 1))
    await store.close()  # what was to be done afterwards is done
    again = await opened(url)
    assert (await again.stats(None)).counts == {"work": {JobState.PENDING: 270}}
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT count(*) FROM perdure_count_changes") < 50
    assert await connection.fetchval("SELECT sum(jobs) FROM perdure_counts") > 200
    await connection.close()
    await again.close()


async def test_a_few_jobs_are_not_kept_waiting_by_many(store: PostgresJobStore) -> None:
    now = await store.now()
    await store.add([make_job(now, tenant="big") for _ in range(20_000)])
    few = [make_job(now, tenant="small") for _ in range(10)]
    await store.add(few)
    taken = await store.claim("w", ["work"], 40, LEASE)
    assert [job.tenant for job in taken] == ["big", "small"] * 10 + ["big"] * 20


async def test_without_hints_nothing_is_announced(url: str) -> None:
    store = await opened(f"{url}&hints=off")
    assert store.capabilities.change_feed is False
    await store.add(await jobs_for(store, 1))
    await store.close()


# --- behind a pooler ----------------------------------------------------------------------------


async def test_a_pooler_that_nobody_mentioned_is_named(url: str) -> None:
    port = urlsplit(url).port
    assert port is not None
    async with transaction_pooler(port) as (_, front):
        store = PostgresJobStore(PostgresDatabase(url.replace(f":{port}/", f":{front}/") + "&pool_size=1"))
        with pytest.raises(StoreError, match="pooler=transaction"):
            await asyncio.gather(*(store.now() for _ in range(4)))
        await store.close()


class TestBehindAPooler(JobStoreContract):
    """Every transaction on another connection: no prepared statement, setting or listener outlives one."""

    capabilities = replace(ABILITIES, change_feed=False)
    url: str
    pooler: Pooler

    @pytest_asyncio.fixture
    async def store(self, url: str) -> AsyncIterator[PostgresJobStore]:
        port = urlsplit(url).port
        assert port is not None
        async with transaction_pooler(port) as (self.pooler, front):
            self.url = url.replace(f":{port}/", f":{front}/") + "&pooler=transaction"
            store = await opened(self.url)
            yield store
            await store.close()
            assert self.pooler.handed_out >= 3

    async def second(self, store: JobStore) -> JobStore:
        return await opened(self.url)
