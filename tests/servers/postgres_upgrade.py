"""Two revisions of the jobs' schema that come after the newest, as a later Perdure would bring them.

python -m tests.servers.postgres_upgrade URL FOLDER    upgrades a database to them
"""

from __future__ import annotations

import asyncio
import runpy
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
from msgspec.structs import replace

from perdure.databases.postgres import PostgresDatabase, Schema, prepare
from perdure.stores.postgres.store import SCHEMA

INDEX: Final = "perdure_jobs_next"
WIDER, INDEXED = "9998", "9999"

OID: Final = f"SELECT to_regclass('{INDEX}')::oid"
BUILDING: Final = f"SELECT count(*) FROM pg_stat_progress_create_index WHERE index_relid = ({OID})"

SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1"
"""A transaction that the index waits for, in the middle of being built."""
READER: Final = "BEGIN; SELECT FROM perdure_jobs"
"""A transaction that the new column waits for."""

REVISION: Final = '''
"""A later one."""

from alembic import op

revision = "{revision}"
down_revision = "{before}"
compatible_from = "{compatible}"


def upgrade() -> None:
    """Change something."""
'''
WIDEN: Final = """\
    op.execute("ALTER TABLE perdure_jobs ADD COLUMN region text")
    op.execute("CREATE TABLE perdure_regions (name text)")
    op.execute("INSERT INTO perdure_regions VALUES ('north')")
"""
BUILD: Final = f"""\
    with op.get_context().autocommit_block():
        op.execute("CREATE INDEX CONCURRENTLY {INDEX} ON perdure_jobs (tenant, created_at)")
"""


def revisions(schema: Schema) -> dict[str, str]:
    """Revision → the oldest one whose code can live with it; in order."""
    told = {}
    for path in sorted((schema.scripts / "versions").glob("*.py")):
        script = runpy.run_path(str(path))
        told[script["revision"]] = script.get("compatible_from", script["revision"])
    return told


def next_schema(folder: Path, compatible_from: str = SCHEMA.head) -> Schema:
    """Write the revisions into the folder; the schema with them."""
    versions = folder / "versions"
    if not versions.exists():
        shutil.copytree(SCHEMA.scripts / "versions", versions)
        for revision, before, change in ((WIDER, SCHEMA.head, WIDEN), (INDEXED, WIDER, BUILD)):
            text = REVISION.format(revision=revision, before=before, compatible=compatible_from)
            (versions / f"{revision}_next.py").write_text(text.lstrip() + change)
    return replace(SCHEMA, scripts=folder, head=INDEXED)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """A connection that is dropped in the end."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


@asynccontextmanager
async def held(url: str, transaction: str) -> AsyncIterator[None]:
    """Somebody's transaction is open as long as the block runs."""
    async with connected(url) as connection:
        await connection.execute(transaction)
        yield
        await connection.execute("COMMIT")


async def upgrade(url: str, schema: Schema) -> None:
    """As a process does that starts."""
    database = PostgresDatabase(url)
    database.hold(schema)
    try:
        await prepare(database, schema, change=True)
    finally:
        await database.release(schema)


if __name__ == "__main__":
    asyncio.run(upgrade(sys.argv[1], next_schema(Path(sys.argv[2]))))
