"""A schema changes while it is used: nobody is kept waiting, and a crash anywhere in it is mended by the next start."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio

from perdure.blobs.postgres.store import SCHEMA as BLOBS
from perdure.databases.postgres import PostgresDatabase, Schema
from perdure.databases.postgres.migrate import Found, find, run_step, steps
from perdure.domain.errors import StoreCorrupt, StoreUnavailable
from perdure.domain.state import JobState
from perdure.domain.transition import complete
from perdure.stores.postgres import PostgresJobStore
from perdure.stores.postgres.store import SCHEMA as JOBS
from perdure.testing.builders import KIND, make_job, make_stamp
from perdure.vectors.pgvector.store import SCHEMA as VECTORS
from tests.servers.postgres import fresh_database, postgres_server, vector_schema
from tests.servers.postgres_pooler import transaction_pooler
from tests.servers.postgres_upgrade import (
    BUILDING,
    INDEX,
    INDEXED,
    OID,
    READER,
    SNAPSHOT,
    connected,
    held,
    next_schema,
    revisions,
    upgrade,
)

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

PATIENCE = 100.0
BLOCKED = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'perdure_jobs'::regclass"


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    """A database of its own: what is built CONCURRENTLY waits for every transaction of its database."""
    async with fresh_database(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    """At the newest revision that is real, with a job in it."""
    store = PostgresJobStore(PostgresDatabase(url))
    await store.setup()
    await store.add([make_job(await store.now())])
    yield store
    await store.close()


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.02)


def said(caplog: pytest.LogCaptureFixture, words: str) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return words in caplog.text

    return look


async def found_at(url: str, schema: Schema) -> Found:
    async with connected(url) as connection:
        return await find(connection, schema)


async def check_upgraded(url: str, store: PostgresJobStore, schema: Schema) -> None:
    """Each step was done, once; and the store of today goes on working with it."""
    assert await found_at(url, schema) == Found(revision=INDEXED, compatible_from=JOBS.head)
    async with connected(url) as connection:
        valid = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass($1)"
        assert await connection.fetchval(valid, INDEX) is True
        assert await connection.fetchval("SELECT count(*) FROM perdure_regions") == 1
    await run_some(store, 5)


async def run_some(store: PostgresJobStore, number: int) -> None:
    """Add, claim and complete; whatever is pending."""
    now = await store.now()
    await store.add([make_job(now) for _ in range(number)])
    before = (await store.stats(None)).by_state[JobState.COMPLETED]
    taken = await store.claim("w", [KIND], 1000, timedelta(minutes=5))
    assert len(taken) >= number
    assert all(await store.apply([complete(job, None, make_stamp(now)) for job in taken]))
    assert (await store.stats(None)).by_state[JobState.COMPLETED] == before + len(taken)


# --- what a revision must be -------------------------------------------------------------------


@pytest.mark.parametrize("schema", [JOBS, VECTORS, BLOBS], ids=lambda schema: schema.version_table)
async def test_a_crash_after_any_step_of_a_real_revision_is_mended(schema: Schema, postgres_url: str) -> None:
    known = revisions(schema)
    assert list(known)[-1] == schema.head
    for number, _ in enumerate(steps(schema, Found())):
        async with vector_schema(postgres_url) as url:
            async with connected(url) as connection:
                for step in steps(schema, Found())[: number + 1]:
                    await run_step(connection, step)
            await upgrade(url, schema)
            found = await found_at(url, schema)
            assert found == Found(revision=schema.head, compatible_from=known[schema.head])
            assert found.compatible_from in known


# --- in use ------------------------------------------------------------------------------------


async def test_many_who_start_at_once_upgrade_once(url: str, store: PostgresJobStore, tmp_path: Path) -> None:
    schema = next_schema(tmp_path)
    await asyncio.gather(*(upgrade(url, schema) for _ in range(12)))
    await check_upgraded(url, store, schema)


async def test_behind_a_pooler(url: str, store: PostgresJobStore, tmp_path: Path) -> None:
    port = urlsplit(url).port
    assert port is not None
    schema = next_schema(tmp_path)
    async with transaction_pooler(port) as (_, front):
        pooled = f"{url.replace(f':{port}/', f':{front}/')}?pooler=transaction"
        await asyncio.gather(*(upgrade(pooled, schema) for _ in range(2)))
    await check_upgraded(url, store, schema)


async def test_an_index_is_built_while_jobs_go_on(url: str, store: PostgresJobStore, tmp_path: Path) -> None:
    schema = next_schema(tmp_path)
    async with connected(url) as look, asyncio.TaskGroup() as group, held(url, SNAPSHOT):
        upgrading = group.create_task(upgrade(url, schema))
        await until(lambda: look.fetchval(BUILDING))
        for _ in range(10):
            await run_some(store, 20)
        assert not upgrading.done()
    await check_upgraded(url, store, schema)


async def test_a_table_in_use_is_waited_for_and_keeps_nobody_else(
    url: str, store: PostgresJobStore, tmp_path: Path
) -> None:
    schema = next_schema(tmp_path)
    async with connected(url) as look, asyncio.TaskGroup() as group, held(url, READER):
        upgrading = group.create_task(upgrade(url, schema))
        for _ in range(3):
            await until(lambda: look.fetchval(BLOCKED))
            await run_some(store, 5)
        assert not upgrading.done()
    await check_upgraded(url, store, schema)


async def test_tables_that_are_not_ours_stop_a_revision_whole(
    url: str, store: PostgresJobStore, tmp_path: Path
) -> None:
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE perdure_regions (mine text)")
        with pytest.raises(StoreCorrupt, match=r"perdure_regions.*move them away"):
            await upgrade(url, next_schema(tmp_path))
        wider = "SELECT count(*) FROM pg_attribute WHERE attrelid = 'perdure_jobs'::regclass AND attname = 'region'"
        assert await connection.fetchval(wider) == 0
    assert (await found_at(url, JOBS)).revision == JOBS.head
    await run_some(store, 1)


# --- killed ------------------------------------------------------------------------------------


async def upgrader(url: str, folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.servers.postgres_upgrade", url, str(folder)),
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.mark.fault
async def test_two_processes_upgrade_at_once_and_one_is_killed(
    url: str, store: PostgresJobStore, tmp_path: Path
) -> None:
    schema = next_schema(tmp_path)
    async with connected(url) as look:
        async with held(url, READER):
            first = await upgrader(url, tmp_path)
            await until(lambda: look.fetchval(BLOCKED))
            second = await upgrader(url, tmp_path)
            first.kill()
            await first.communicate()
        _, told = await second.communicate()
        assert second.returncode == 0, told.decode()
    await check_upgraded(url, store, schema)


@pytest.mark.fault
@pytest.mark.parametrize("server_goes_on", [True, False])
async def test_a_process_killed_while_it_builds_an_index(
    url: str,
    store: PostgresJobStore,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    *,
    server_goes_on: bool,
) -> None:
    """The server does not notice. What it still builds is waited for; what broke off is built again."""
    schema = next_schema(tmp_path)
    caplog.set_level(logging.INFO)
    async with connected(url) as look, asyncio.TaskGroup() as group:
        async with held(url, SNAPSHOT):
            child = await upgrader(url, tmp_path)
            await until(lambda: look.fetchval(BUILDING))
            begun = await look.fetchval(OID)
            child.kill()
            await child.communicate()
            if not server_goes_on:
                await look.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
                await until(lambda: look.fetchval(f"SELECT ({BUILDING}) = 0"))
            await run_some(store, 1)
            caplog.clear()
            group.create_task(upgrade(url, schema))
            word = "still being built" if server_goes_on else "is broken; it is built now"
            await until(said(caplog, word))
            if not server_goes_on:
                await until(lambda: look.fetchval(BUILDING))
            await run_some(store, 1)
        await until(lambda: look.fetchval(f"SELECT indisvalid FROM pg_index WHERE indexrelid = ({OID})"))
        assert (await look.fetchval(OID) == begun) is server_goes_on
    await check_upgraded(url, store, schema)


@pytest.mark.fault
async def test_a_server_killed_while_it_builds_an_index(tmp_path: Path) -> None:
    with postgres_server() as server:
        store = PostgresJobStore(PostgresDatabase(server.url))
        await store.setup()
        schema = next_schema(tmp_path)
        async with connected(server.url) as holder, connected(server.url) as look:
            await holder.execute(SNAPSHOT)
            upgrading = asyncio.create_task(upgrade(server.url, schema))
            await until(lambda: look.fetchval(BUILDING))
            # First the one that builds: else it may come to its end before it hears of the server's.
            os.kill(await look.fetchval("SELECT pid FROM pg_stat_progress_create_index"), signal.SIGKILL)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await upgrading
        await asyncio.to_thread(server.start)
        async with connected(server.url) as look:
            assert await look.fetchval(f"SELECT indisvalid FROM pg_index WHERE indexrelid = ({OID})") is False
        await upgrade(server.url, schema)
        await check_upgraded(server.url, store, schema)
        await store.close()
