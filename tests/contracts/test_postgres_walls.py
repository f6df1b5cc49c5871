"""Row-level security, as the page about it says: raw SQL shows one tenant's rows, and workers go on as before."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
import pytest_asyncio

import perdure
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.orders import INLINE_BYTES
from tests.servers.postgres import fresh_database

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "wall-off-tenants-in-postgresql.md"
WALL, LET_IN, READ, BY_NAME = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)

TENANTS: Final = ("acme", "globex")
OPEN_TO_ALL: Final = {"perdure_values", "perdure_embedding_cache"}
"""Tables without a tenant: no role of a tenant may read them. And the tables of versions, which Alembic keeps."""

Session: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


def as_role(url: str, role: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}"))


@asynccontextmanager
async def session(url: str, role: str | None = None) -> AsyncIterator[Session]:
    connection = await asyncpg.connect(as_role(url, role) if role else url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    """A store that two tenants use, with the wall built, as its owner; roles belong to the server, so they go in the end."""
    async with fresh_database(postgres_url) as base, session(base) as superuser:
        name = urlsplit(base).path[1:]
        await superuser.execute("CREATE EXTENSION vector; CREATE ROLE keeper LOGIN CREATEROLE")
        await superuser.execute(f'ALTER DATABASE "{name}" OWNER TO keeper')
        try:
            url = as_role(base, "keeper")
            async with perdure.open(url, worker=False) as app:
                for tenant in TENANTS:
                    await app.ingest_text(f"Secrets of {tenant}", tenant=tenant, document_id="plan")
                    await app.ingest_text("word " * INLINE_BYTES, tenant=tenant, document_id="large")
            async with session(url) as owner:
                for _ in range(2):  # it may be repeated
                    await owner.execute(WALL)
                await owner.execute(LET_IN)
            yield url
        finally:
            await superuser.execute(f'ALTER DATABASE "{name}" OWNER TO CURRENT_USER')
            await superuser.execute("DROP OWNED BY keeper, perdure_tenants CASCADE")
            await superuser.execute("DROP ROLE IF EXISTS keeper, reports, tenant_acme, perdure_tenants")


async def work(url: str) -> None:
    """Do all that is pending."""
    async with perdure.open(url) as app:
        for tenant in TENANTS:
            for job in (await app.jobs.page(JobFilter(tenant=tenant))).jobs:
                assert (await app.wait(job.id, tenant=tenant, timeout=60)).state is JobState.COMPLETED


async def tables(url: str) -> set[str]:
    """All of ours that hold what users brought."""
    async with session(url) as owner:
        rows = await owner.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relname ~ '^perdure_' AND relname !~ 'version'"
        )
    return {row[0] for row in rows}


async def counted(connection: Session, table: str) -> int:
    return int(await connection.fetchval(f"SELECT count(*) FROM {table}"))  # from the catalog


async def shares(url: str) -> dict[str, list[int]]:
    """Of each table: the rows of nobody, of each tenant, and all there are."""
    held: dict[str, list[int]] = {}
    async with session(url) as owner, session(url, "reports") as reader:
        for table in sorted(await tables(url) - OPEN_TO_ALL):
            held[table] = [await counted(reader, table)]
            for tenant in TENANTS:
                async with reader.transaction():
                    await reader.execute(f"SET LOCAL perdure.tenant = '{tenant}'")
                    held[table].append(await counted(reader, table))
            held[table].append(await counted(owner, table))
    return held


async def test_each_role_sees_one_tenants_rows_and_workers_go_on(url: str) -> None:
    before = await shares(url)
    await work(url)
    for held in (before, await shares(url)):
        for table, (nobodys, *tenants, everything) in held.items():
            assert nobodys == 0, table
            assert sum(tenants) == everything, table
            assert len(set(tenants)) == 1, table  # they did the same
    assert all(before[table][-1] for table in ("perdure_jobs", "perdure_blobs", "perdure_blob_pieces"))
    assert held["perdure_chunks"][-1] > 2
    assert held["perdure_history"][-1] >= 4


async def test_no_sql_leads_around_it(url: str) -> None:
    await work(url)
    async with session(url, "reports") as reader:
        assert not await reader.fetch("SELECT * FROM perdure_chunks WHERE tenant = 'globex' OR true")
        await reader.execute(READ)
        await reader.execute("SET perdure.tenant = 'acme'")
        found = await reader.fetch("SELECT chunk_text FROM perdure_chunks WHERE document_id = 'plan' OR true")
        assert "Secrets of acme" in {row[0] for row in found}
        assert "Secrets of globex" not in {row[0] for row in found}
        forbidden = [
            *(f"SELECT * FROM {table}" for table in OPEN_TO_ALL & await tables(url)),
            "UPDATE perdure_jobs SET tenant = 'acme'",
            "DELETE FROM perdure_jobs",
            "ALTER TABLE perdure_jobs DISABLE ROW LEVEL SECURITY",
            "SET ROLE keeper",
        ]
        for statement in forbidden:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.execute(statement)
    async with session(url) as owner:
        await owner.execute(BY_NAME)
    async with session(url, "tenant_acme") as acme:  # named after its tenant: it cannot choose another
        await acme.execute("SET perdure.tenant = 'globex'")
        assert {row[0] for row in await acme.fetch("SELECT tenant FROM perdure_jobs")} == {"acme"}
