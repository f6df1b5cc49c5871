"""Coming up and going wrong: schemas, URLs, and what a user reads when PostgreSQL says no."""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator
from datetime import timedelta

import asyncpg
import pytest
import pytest_asyncio

import perdure
from perdure.databases.postgres import PostgresDatabase
from perdure.databases.postgres.errors import translate
from perdure.domain.errors import InvalidInput, SchemaMismatch, StoreCorrupt, StoreError, StoreUnavailable
from perdure.domain.query import JobFilter
from perdure.stores.postgres import PostgresJobStore
from perdure.stores.postgres.store import SCHEMA
from perdure.testing.builders import make_job
from tests.servers.postgres import fresh_database

server = [pytest.mark.server, pytest.mark.xdist_group("postgres")]


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        yield url


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


async def refusal(url: str) -> StoreError:
    """What setting up a store there says; nothing in it may tell the password."""
    store = PostgresJobStore(PostgresDatabase(url))
    with pytest.raises(StoreError) as caught:
        await store.setup()
    await store.close()
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))
    return caught.value


class TestSchema:
    pytestmark = server

    def test_the_head_is_the_newest_script(self) -> None:
        from alembic.config import Config
        from alembic.script import ScriptDirectory

        config = Config()
        config.set_main_option("script_location", str(SCHEMA.scripts))
        revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
        assert revisions == sorted(revisions, reverse=True)
        assert revisions[0] == SCHEMA.head

    async def test_many_replicas_set_up_at_once(self, url: str) -> None:
        stores = [PostgresJobStore(PostgresDatabase(url)) for _ in range(12)]
        await asyncio.gather(*(store.setup() for store in stores))
        job = make_job(await stores[0].now())
        await stores[0].add([job])
        assert await stores[11].get(job.tenant, job.id) == job
        for store in stores:
            await store.close()

    async def test_without_leave_to_migrate_it_says_what_to_run(self, url: str) -> None:
        error = await refusal(f"{url}?migrate=off")
        assert isinstance(error, SchemaMismatch)
        assert "no Perdure tables" in str(error)
        assert "perdure store init" in str(error)

    async def test_the_command_that_it_says_to_run_makes_the_tables_by_the_same_url(self, url: str) -> None:
        locked = f"{url}?migrate=off"
        command = [sys.executable, "-m", "perdure", "store", "init", "--store", locked]
        done = await asyncio.create_subprocess_exec(*command)
        assert await done.wait() == 0
        async with perdure.open(locked, worker=False) as app:
            assert await app.health() == {"store": "ok", "vectors": "ok"}

    async def test_a_newer_schema_is_left_alone(self, url: str) -> None:
        store = PostgresJobStore(PostgresDatabase(url))
        await store.setup()
        await execute(url, "UPDATE perdure_jobs_version SET version_num = '9999', compatible_from = '9998'")
        error = await refusal(url)
        assert isinstance(error, SchemaMismatch)
        assert "has schema 9999, newer than this Perdure's" in str(error)
        assert "suits those that know 9998: upgrade Perdure" in str(error)
        await store.close()

    async def test_a_newer_schema_that_suits_this_perdure_is_used(self, url: str) -> None:
        store = PostgresJobStore(PostgresDatabase(url))
        await store.setup()
        await execute(
            url, f"UPDATE perdure_jobs_version SET version_num = '9999', compatible_from = '{SCHEMA.head}'"
        )
        for leave in ("on", "off"):
            old = PostgresJobStore(PostgresDatabase(f"{url}?migrate={leave}"))
            await old.setup()
            await old.add([make_job(await old.now())])
            await old.close()
        assert (await store.stats(None)).total == 2
        await store.close()

    async def test_a_schema_from_before_this_was_written_down(self, url: str) -> None:
        store = PostgresJobStore(PostgresDatabase(url))
        await store.setup()
        await execute(url, "ALTER TABLE perdure_jobs_version DROP COLUMN compatible_from")
        await store.setup()
        await execute(url, "UPDATE perdure_jobs_version SET version_num = '9999'")
        assert "suits those that know 9999" in str(await refusal(url))
        await store.close()

    async def test_an_older_schema_is_named(self, url: str) -> None:
        store = PostgresJobStore(PostgresDatabase(url))
        await store.setup()
        await execute(url, "UPDATE perdure_jobs_version SET version_num = '0000'")
        error = await refusal(f"{url}?migrate=off")
        assert isinstance(error, SchemaMismatch)
        assert "has schema 0000, this Perdure needs" in str(error)
        assert "run `perdure store init` as a user that may change tables" in str(error)
        await store.close()

    async def test_tables_that_are_not_ours_are_left_alone(self, url: str) -> None:
        await execute(url, "CREATE TABLE perdure_jobs (mine text)")
        assert isinstance(await refusal(url), StoreCorrupt)
        await execute(url, "SELECT mine FROM perdure_jobs")

    async def test_a_call_before_setup_says_what_to_run(self, url: str) -> None:
        store = PostgresJobStore(PostgresDatabase(url))
        with pytest.raises(SchemaMismatch, match="perdure store init"):
            await store.count(JobFilter(tenant=None))
        await store.close()


class TestTrouble:
    pytestmark = server

    async def test_nobody_there(self) -> None:
        error = await refusal("postgresql://ann:s3cret@127.0.0.1:1/jobs")
        assert isinstance(error, StoreUnavailable)
        assert "PostgreSQL at ann@127.0.0.1:1/jobs cannot be reached" in str(error)

    @pytest.mark.parametrize("size", [1, 2, 4])
    async def test_the_pool_is_bounded(self, url: str, size: int) -> None:
        store = PostgresJobStore(PostgresDatabase(f"{url}?pool_size={size}&hints=off"))
        await store.setup()
        many = [store.add([make_job(await store.now())]) for _ in range(50)]
        await asyncio.gather(*many, *(store.now() for _ in range(50)))
        connection = await asyncpg.connect(url)
        taken = await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.close()
        await store.close()
        assert 1 <= taken <= size

    async def test_stores_share_a_database_and_the_last_one_closes_it(self, url: str) -> None:
        database = PostgresDatabase(url)
        first, second = PostgresJobStore(database), PostgresJobStore(database)
        await first.setup()
        await first.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await first.now()
        assert await second.claim("w", ["work"], 1, timedelta(seconds=1)) == []
        await second.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await database.run(lambda connection: connection.execute("SELECT 1"))


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:s3cret@host/db",
        "postgresql://u:s3cret@host/db?pool_size=0",
        "postgresql://u:s3cret@host/db?pool_size=many",
        "postgresql://u:s3cret@host/db?pooler=sometimes",
        "postgresql://u:s3cret@host/db?hints=maybe",
        "postgresql://u:s3cret@host/db?timeout=-1",
        "postgresql://u:s3cret@host:port/db",
    ],
)
def test_a_url_that_does_not_fit_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput, match="expected postgresql://") as caught:
        PostgresDatabase(url)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("error", "kind", "remedy"),
    [
        (asyncpg.InvalidPasswordError("no"), StoreError, "password"),
        (asyncpg.DiskFullError("no space left"), StoreUnavailable, "free some"),
        (asyncpg.TooManyConnectionsError("too many clients"), StoreUnavailable, "connections"),
        (asyncpg.CannotConnectNowError("starting up"), StoreUnavailable, "try again"),
        (asyncpg.DeadlockDetectedError("deadlock"), StoreUnavailable, "try again"),
        (asyncpg.QueryCanceledError("statement timeout"), StoreUnavailable, "try again"),
        (
            asyncpg.ProtocolViolationError('unsupported startup parameter "jit"'),
            StoreError,
            "pooler=transaction",
        ),
        (TimeoutError(), StoreUnavailable, "in time"),
        (asyncpg.SyntaxOrAccessError("odd"), StoreError, "odd"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_errors_carry_the_remedy(error: Exception, kind: type[Exception], remedy: str) -> None:
    told = translate(error, "PostgreSQL at ann@host/db")
    assert type(told) is kind or issubclass(type(told), kind)
    assert remedy in str(told)
    assert "ann@host/db" in str(told)
