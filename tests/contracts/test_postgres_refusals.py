"""What PostgreSQL's store says where it may not, cannot or should not write; and that nothing is half written then."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import asyncpg
import pytest
import pytest_asyncio

from perdure.core.jobs import JobService
from perdure.domain.errors import InvalidInput, SchemaMismatch, StoreCorrupt, StoreError, StoreUnavailable
from perdure.domain.job import MAX_PAYLOAD, NewJob
from perdure.stores.postgres import PostgresJobStore
from perdure.stores.postgres.store import SCHEMA
from perdure.testing.builders import make_job
from perdure.testing.jobs.base import added, read, running
from tests.refusing import PASSWORD, nothing_was_written, opened, refused, writes_are_refused
from tests.servers.postgres import NOBODY, PostgresServer, fresh_database, postgres_server
from tests.servers.proxy import tcp_proxy

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

READ_ONLY: Final = "is read-only, a replica perhaps; name the primary in the store's URL"
FULL: Final = r"has run out: .*Nothing was written; free some \(disk"
LOGIN: Final = r"refused the login \(.*\); check user and password in the store's URL"
CAN_MOUNT: Final = (
    os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "true"], check=False).returncode == 0
)
OWNER: Final = "grant it to this user, or let an owner run `perdure store init`"


@pytest.fixture
def own() -> Iterator[PostgresServer]:
    """A server that may be closed, stopped and filled."""
    with postgres_server() as server:
        yield server


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        yield url


async def execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def other_database(server: PostgresServer, name: str, *options: str) -> str:
    await execute(server.url, f"CREATE DATABASE {name} {' '.join(options)}")
    return f"{server.url.rpartition('/')[0]}/{name}"


async def test_a_wrong_password_user_or_database_is_told_from_one_another(own: PostgresServer) -> None:
    def store(login: str, database: str = "jobs") -> PostgresJobStore:
        return PostgresJobStore(f"postgresql://{login}@127.0.0.1:{own.port}/{database}")

    await execute(
        own.url,
        *(f"CREATE ROLE {name} LOGIN PASSWORD '{PASSWORD}'" for name in ("ann", "eve")),
        "CREATE DATABASE jobs OWNER ann",
    )
    (own.folder / "data" / "pg_hba.conf").write_text("host all all 127.0.0.1/32 scram-sha-256\n")
    own.stop()
    await asyncio.to_thread(own.start)
    for login in (f"ann:{PASSWORD}-not", f"bob:{PASSWORD}"):
        await refused(store(login), StoreError, LOGIN)
    await refused(
        store(f"ann:{PASSWORD}", "others"), StoreError, r'"others" does not exist; create it \(`createdb`'
    )
    await refused(store(f"eve:{PASSWORD}"), StoreError, OWNER)
    async with opened(store(f"ann:{PASSWORD}")) as ours:
        job = await running(ours)
        ann = f"postgresql://ann:{PASSWORD}@127.0.0.1:{own.port}/jobs"
        await execute(ann, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO eve")
        async with opened(store(f"eve:{PASSWORD}")) as hers:
            assert await read(hers, job) == job
            await writes_are_refused(hers, job, StoreError, OWNER)
        await nothing_was_written(ours, job)


async def test_a_standby_takes_no_writes(own: PostgresServer) -> None:
    empty = await other_database(own, "empty")
    async with opened(PostgresJobStore(own.url)) as store:
        job = await running(store)
        standby = own.folder / "data" / "standby.signal"
        own.stop()
        standby.touch()
        await asyncio.to_thread(own.start)
        async with opened(PostgresJobStore(own.url)) as reader:  # what it has it shows
            assert await read(reader, job) == job
            await writes_are_refused(reader, job, StoreUnavailable, READ_ONLY)
        await refused(PostgresJobStore(empty), StoreUnavailable, READ_ONLY)
        own.stop()
        standby.unlink()
        await asyncio.to_thread(own.start)
        with suppress(StoreUnavailable):  # the connection of before
            await store.now()
        await nothing_was_written(store, job)


async def test_a_host_that_is_down_at_the_start_and_later(own: PostgresServer) -> None:
    async with tcp_proxy(own.port) as proxy:
        url = own.url.replace(f":{own.port}", f":{proxy.port}")
        gone = rf"127\.0\.0\.1:{proxy.port}/postgres (cannot be reached \(.*check that it runs|broke off \(.*try again)"
        proxy.refusing = True
        await refused(PostgresJobStore(url), StoreUnavailable, gone)
        proxy.refusing = False
        async with opened(PostgresJobStore(url)) as store:
            job = await running(store)
            proxy.refusing = True
            proxy.cut()
            await writes_are_refused(store, job, StoreUnavailable, gone)
            proxy.refusing = False
            await nothing_was_written(store, job)


async def test_a_disk_that_its_server_calls_full(url: str) -> None:
    async with opened(PostgresJobStore(url)) as store:
        job = await running(store)
        await execute(
            url,
            "CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
            "CREATE TRIGGER full_disk BEFORE INSERT OR UPDATE ON perdure_jobs EXECUTE FUNCTION fail()",
        )
        await writes_are_refused(store, job, StoreUnavailable, FULL)
        await execute(url, "DROP TRIGGER full_disk ON perdure_jobs")
        await nothing_was_written(store, job)


@pytest.fixture
def small_disk(own: PostgresServer) -> Iterator[Path]:
    """A folder of the server's on a disk of 32 MB."""
    folder = own.folder / "small"
    folder.mkdir()
    options = f"size=32M,mode=700,uid={NOBODY},gid={NOBODY}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    yield folder
    own.stop()
    subprocess.run(["umount", str(folder)], check=True)


async def fill(url: str) -> None:
    """Until there is no room for one row more."""
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE filler (text text STORAGE PLAIN)")
    rows = 4096
    while rows:
        try:
            await connection.execute(
                f"INSERT INTO filler SELECT repeat('x', 4000) FROM generate_series(1, {rows})"
            )
        except asyncpg.DiskFullError:
            rows //= 2
    await connection.close()


if CAN_MOUNT:  # others are content with the server's word, above

    @pytest.mark.parametrize("keyed", [False, True], ids=["copied", "inserted"])
    async def test_a_disk_that_is_full(own: PostgresServer, small_disk: Path, *, keyed: bool) -> None:
        await execute(own.url, f"CREATE TABLESPACE small LOCATION '{small_disk}'")
        url = await other_database(own, "jobs", "TABLESPACE small")
        async with opened(PostgresJobStore(f"{url}?hints=off")) as store:
            job = await running(store)
            await fill(url)
            now = await store.now()
            jobs = [make_job(now, idempotency_key=f"k{n}" if keyed else None) for n in range(3000)]
            with pytest.raises(StoreUnavailable, match=FULL):
                await store.add(jobs)
            assert (await store.stats(None)).total == 1
            assert await read(store, job) == job
            await execute(url, "DROP TABLE filler")
            assert await store.add(jobs) == jobs
            assert (await store.stats(None)).total == 3001


# --- indexes that are gone -------------------------------------------------------------------


async def test_an_index_that_is_missing_is_named_and_built_again(url: str) -> None:
    async with opened(PostgresJobStore(url)) as store:
        job = await running(store, idempotency_key="k")
        await execute(url, "DROP INDEX perdure_jobs_key", "DROP INDEX perdure_jobs_pending")
        gone = f"schema {SCHEMA.head} without the indexes perdure_jobs_pending, perdure_jobs_key, .*perdure store init"
        await refused(PostgresJobStore(f"{url}?migrate=off"), SchemaMismatch, gone)
        others = [PostgresJobStore(url) for _ in range(3)]
        await asyncio.gather(*(other.setup() for other in others))
        async with opened(PostgresJobStore(f"{url}?migrate=off")) as again:
            assert await again.add([make_job(job.created_at, idempotency_key="k")]) == [job]
        for other in others:
            await other.close()


async def test_what_came_in_twice_while_its_index_was_missing_is_named(url: str) -> None:
    async with opened(PostgresJobStore(url)) as store:
        await execute(url, "DROP INDEX perdure_jobs_key")
        first, second = await added(store, idempotency_key="k"), await added(store, idempotency_key="k")
        assert first.id != second.id
        for _ in range(2):  # the first leaves an index half built
            await refused(PostgresJobStore(url), StoreCorrupt, r"=\(default, k\).*delete all but one")
        assert await store.delete(second.tenant, second.id)
        async with opened(PostgresJobStore(url)) as again:
            assert await again.add([make_job(first.created_at, idempotency_key="k")]) == [first]


async def test_the_indexes_that_are_looked_for_are_all_there_are(url: str) -> None:
    async with opened(PostgresJobStore(url)):
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(
            "SELECT indexname FROM pg_indexes WHERE tablename IN ('perdure_jobs', 'perdure_history')"
        )
        await connection.close()
    assert {row[0] for row in rows} - {"perdure_jobs_pkey", "perdure_history_pkey"} == set(SCHEMA.indexes)


# --- values ----------------------------------------------------------------------------------


async def test_what_is_too_large_or_holds_nul_is_refused_whole(url: str) -> None:
    fits = NewJob(kind="work", payload={"text": "x" * (MAX_PAYLOAD - 100)})
    async with opened(PostgresJobStore(url)) as store:
        jobs = JobService(store)
        await jobs.start()
        with pytest.raises(
            InvalidInput, match=r"the payload has .* bytes; at most .* are allowed. Put large content"
        ):
            await jobs.add_many([fits, NewJob(kind="work", payload={"text": "x" * MAX_PAYLOAD})])
        with pytest.raises(InvalidInput, match="NUL"):
            await jobs.add_many([fits, NewJob(kind="work", payload={"text": "a\0b"})])
        assert (await store.stats(None)).total == 0
        kept = await jobs.add(fits)
        assert await store.get(kept.tenant, kept.id) == kept
        await jobs.close()
