"""A row of the caller's and its job commit together, or neither does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TypeAlias

import asyncpg
import pytest
import pytest_asyncio

import perdure
from perdure.app import App
from perdure.core.cache import CachedJobStore
from perdure.core.context import Context
from perdure.core.jobs import JobService
from perdure.databases.postgres import PostgresDatabase
from perdure.domain.errors import (
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    StoreError,
    StoreUnavailable,
)
from perdure.domain.job import Job, NewJob
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.orders import INLINE_BYTES
from perdure.stores.postgres import PostgresJobStore
from perdure.testing.builders import make_job
from tests.servers.postgres import fresh_database, fresh_schema

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

Own: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_schema(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(PostgresDatabase(url))
    await store.setup()
    yield store
    await store.close()


@pytest_asyncio.fixture
async def connection(url: str) -> AsyncIterator[Own]:
    """The caller's own, with a table of orders."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE orders (id text)")
    yield connection
    connection.terminate()


async def jobs_for(store: PostgresJobStore, number: int, **over: object) -> list[Job]:
    now = await store.now()
    return [make_job(now, **over) for _ in range(number)]


@pytest.mark.parametrize("number", [1, 3, 80])
async def test_jobs_join_the_callers_transaction(
    store: PostgresJobStore, connection: Own, number: int
) -> None:
    jobs = await jobs_for(store, number)
    for ends_well in (False, True):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("INSERT INTO orders VALUES ('order-7')")
        assert await store.add(jobs, connection=connection) == jobs
        assert await store.count(JobFilter(tenant=None)) == 0
        await (transaction.commit() if ends_well else transaction.rollback())
        assert await connection.fetchval("SELECT count(*) FROM orders") == ends_well
        assert (
            await store.count(JobFilter(tenant=None)) == (await store.stats(None)).total == number * ends_well
        )


async def test_a_job_refused_leaves_the_callers_transaction_alone(
    store: PostgresJobStore, connection: Own
) -> None:
    [known] = await store.add(await jobs_for(store, 1, idempotency_key="order-7"))
    [odd] = await jobs_for(store, 1, user_id="nul \0")
    async with connection.transaction():
        assert await store.add(
            await jobs_for(store, 1, idempotency_key="order-7"), connection=connection
        ) == [known]
        with pytest.raises(InvalidInput):
            await store.add([odd], connection=connection)
        [added] = await store.add(await jobs_for(store, 1), connection=connection)
    assert await store.get(added.tenant, added.id) == added
    assert await store.count(JobFilter(tenant=None)) == 2


async def test_a_transaction_by_hand_and_codecs_of_the_callers_own(
    store: PostgresJobStore, connection: Own
) -> None:
    """Many programs teach their connections JSON; the payload must not be written as JSON twice for that."""
    await connection.set_type_codec("json", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    [job] = await jobs_for(store, 1, idempotency_key="k", payload={"n": [1, "ä"]}, labels={"a": "b"})
    await connection.execute("BEGIN")
    assert await store.add([job], connection=connection) == [job]
    assert await store.add(await jobs_for(store, 1, idempotency_key="k"), connection=connection) == [job]
    await connection.execute("COMMIT")
    assert await store.get(job.tenant, job.id) == job


async def test_a_connection_that_breaks_leaves_neither(store: PostgresJobStore, connection: Own) -> None:
    await connection.execute("BEGIN")
    await connection.execute("INSERT INTO orders VALUES ('order-7')")
    [job] = await store.add(await jobs_for(store, 1), connection=connection)
    other = await store._database._connect()
    await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    with pytest.raises(StoreUnavailable):
        await store.add(await jobs_for(store, 1), connection=connection)
    assert await other.fetchval("SELECT count(*) FROM orders") == 0
    assert await store.get(job.tenant, job.id) is None
    await other.close()


# --- through the application -----------------------------------------------------------------


@pytest_asyncio.fixture(params=[0, 8], ids=["plain", "cached"])
async def app(url: str, request: pytest.FixtureRequest) -> AsyncIterator[App]:
    async with perdure.open(
        url, vectors="memory:", embedder="hashing", poll_seconds=0.05, cache_megabytes=request.param
    ) as app:
        yield app


async def test_a_job_runs_once_its_order_is_committed(app: App, connection: Own, url: str) -> None:
    seen: list[int] = []
    look = await asyncpg.connect(url)

    @app.handler("ship")
    async def ship(ctx: Context, order: str) -> None:
        seen.append(await look.fetchval("SELECT count(*) FROM orders WHERE id = $1", order))

    async with connection.transaction():
        job = await app.submit("ship", {"order": "order-7"}, connection=connection)
        with pytest.raises(NotFound):  # nobody sees it yet, nor is the absence remembered
            await app.jobs.get(job.id, tenant="default")
        await connection.execute("INSERT INTO orders VALUES ('order-7')")
    assert (await app.jobs.get(job.id, tenant="default")).id == job.id
    done = await app.wait(job.id, timeout=60)
    assert (done.state, seen) == (JobState.COMPLETED, [1])
    await look.close()


async def test_a_transaction_rolled_back_leaves_no_job(app: App, connection: Own) -> None:
    await connection.execute("BEGIN")
    job = await app.submit("ship", {"order": "order-7"}, connection=connection)
    await connection.execute("ROLLBACK")
    with pytest.raises(NotFound):
        await app.jobs.get(job.id, tenant="default")
    assert (await app.jobs.stats(None)).total == 0


async def test_the_same_key_in_another_transaction_is_the_same_job(app: App, connection: Own) -> None:
    """What to do where the commit's answer was lost: say it all again."""
    async with connection.transaction():
        first = await app.submit("ship", {"order": "7"}, idempotency_key="7", connection=connection)
    async with connection.transaction():
        again = await app.submit("ship", {"order": "7"}, idempotency_key="7", connection=connection)
        with pytest.raises(IdempotencyConflict):
            await app.submit("ship", {"order": "8"}, idempotency_key="7", connection=connection)
    assert again.id == first.id
    assert (await app.jobs.stats(None)).total == 1


@pytest.mark.parametrize("ends_well", [True, False])
async def test_the_same_key_waits_for_a_transaction_that_has_used_it(
    store: PostgresJobStore, connection: Own, url: str, *, ends_well: bool
) -> None:
    jobs = JobService(store)
    new = NewJob(kind="ship", idempotency_key="order-7")
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted"
    look = await asyncpg.connect(url)
    await connection.execute("BEGIN")
    first = await jobs.add(new, connection=connection)
    second = asyncio.create_task(jobs.add(new))
    async with asyncio.timeout(60):
        while not await look.fetchval(waiting):
            await asyncio.sleep(0.02)
    await connection.execute("COMMIT" if ends_well else "ROLLBACK")
    assert ((await second).id == first.id) is ends_well
    assert (await store.stats(None)).total == 1
    await look.close()


@pytest.mark.parametrize("length", [20, 2 * INLINE_BYTES])
async def test_a_document_joins_as_well(app: App, connection: Own, length: int) -> None:
    text = ("leave is thirty days. " * length)[:length]
    await connection.execute("BEGIN")
    await app.ingest_text("leave is over", document_id="b", connection=connection)
    await connection.execute("ROLLBACK")
    async with connection.transaction():
        job = await app.ingest_text(text, document_id="a", connection=connection)
        with pytest.raises(NotFound):
            await app.jobs.get(job.id, tenant="default")
    assert (await app.wait(job.id, timeout=60)).state is JobState.COMPLETED
    assert {hit.document_id for hit in await app.search("leave")} == {"a"}
    assert (await app.jobs.stats(None)).total == 1


# --- connections that do not fit -------------------------------------------------------------


class Psycopg:
    """Another driver's connection."""


async def test_a_connection_that_does_not_fit_is_refused(
    store: PostgresJobStore, connection: Own, url: str, postgres_url: str
) -> None:
    jobs = JobService(store)
    new = NewJob(kind="ship")
    with pytest.raises(InvalidInput, match=r"Psycopg; expected one of asyncpg's.*driver_connection"):
        await jobs.add(new, connection=Psycopg())
    with pytest.raises(InvalidInput, match=r"in no transaction.*async with connection\.transaction\(\)"):
        await jobs.add(new, connection=connection)
    closed = await asyncpg.connect(url)
    await closed.close()
    with pytest.raises(StoreUnavailable, match=r"is closed.*do all of it again"):
        await jobs.add(new, connection=closed)
    await connection.execute("BEGIN")
    with pytest.raises(asyncpg.UndefinedTableError):
        await connection.execute("SELECT FROM nothing")
    with pytest.raises(StoreError, match="transaction is aborted"):
        await jobs.add(new, connection=connection)
    assert (await store.stats(None)).total == 0


async def test_a_connection_that_leads_elsewhere_is_refused(
    store: PostgresJobStore, postgres_url: str
) -> None:
    """Without tables of Perdure, or with others than this store's."""
    jobs = JobService(store)
    async with fresh_database(postgres_url) as elsewhere:
        stranger = await asyncpg.connect(elsewhere)
        async with stranger.transaction():
            with pytest.raises(InvalidInput, match=r"without tables of Perdure.*same database"):
                await jobs.add(NewJob(kind="ship"), connection=stranger)
        other = PostgresJobStore(PostgresDatabase(elsewhere))
        await other.setup()
        async with stranger.transaction():
            with pytest.raises(InvalidInput, match="same database, with the same search_path"):
                await jobs.add(NewJob(kind="ship"), connection=stranger)
        await stranger.close()
        assert (await other.stats(None)).total == 0
        await other.close()


async def test_a_pools_connection_and_a_store_behind_the_cache(store: PostgresJobStore, url: str) -> None:
    cache = CachedJobStore(store)
    assert cache.capabilities.joins
    jobs = JobService(cache)
    async with asyncpg.create_pool(url, min_size=1, max_size=1) as pool, pool.acquire() as connection:
        async with connection.transaction():
            made = await jobs.add_many([NewJob(kind="ship") for _ in range(3)], connection=connection)
        assert cache.cache_stats.entries == 0
    assert [job.id for job in await store.find(JobFilter(tenant=None), 9)] == sorted(
        (job.id for job in made), reverse=True
    )
