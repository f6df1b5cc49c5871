"""Schemas by Alembic, brought up to date by whoever comes first, while others use them."""

from __future__ import annotations

import asyncio
import io
import logging
import random
import re
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from perdure.databases.postgres.errors import translated
from perdure.domain.errors import SchemaMismatch, StoreCorrupt
from perdure.domain.record import Record

if TYPE_CHECKING:
    from perdure.databases.postgres.database import Connection, PostgresDatabase

log = logging.getLogger(__name__)

LOCK: Final = 0x7065_7264_7572_65
"""The advisory lock under which schemas change ("perdure"), so that of many replicas one does it."""

LOCK_TIMEOUT: Final = "2s"
"""How long a step waits for a table: as long, everybody else who wants it waits behind the step."""

TRIES: Final = 60
"""How often a step is tried that does not get its tables, with pauses of up to `LONGEST_PAUSE` seconds."""
LONGEST_PAUSE: Final = 5.0

SAY_EVERY: Final = 20
"""Looks, of about half a second, after which whoever waits for another process says so."""

NOTED: Final = (
    "SELECT version_num, to_jsonb(v) ->> 'compatible_from' FROM {table} AS v ORDER BY 1 DESC LIMIT 1"
)
PATIENCE: Final = """
    SELECT set_config(name, '0', true) FROM pg_settings
    WHERE name IN ('idle_in_transaction_session_timeout', 'transaction_timeout')
"""
"""The lock's transaction may lie idle for hours."""

INDEX_STATE: Final = """
    SELECT CASE WHEN indisvalid THEN 'ready'
                WHEN EXISTS (SELECT FROM pg_stat_progress_create_index AS p WHERE p.index_relid = indexrelid)
                THEN 'building' ELSE 'broken' END
    FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
    WHERE relname = $1 AND pg_table_is_visible(indexrelid)
"""

_INDEX = re.compile(r"(CREATE (?:UNIQUE )?INDEX)( CONCURRENTLY)? (?:IF NOT EXISTS )?(\w+)")
_IN_THE_WAY = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError, asyncpg.SerializationError)

_one_at_a_time = threading.Lock()
"""Alembic keeps what it works on in globals."""


class Schema(Record):
    """The tables of one component, each with a line of revisions of its own.

    Attributes:
        scripts: the folder in which the folder `versions` has the revisions.
        version_table: where Alembic notes the revision.
        head: the newest revision that this Perdure knows. Revisions sort by their names.
        indexes: without which work is slow, or doubles go unnoticed: one that is gone is built again.
    """

    scripts: Path
    version_table: str
    head: str
    indexes: tuple[str, ...] = ()


class Found(Record):
    """What the database says of its schema.

    Attributes:
        revision: None: the tables were never made.
        compatible_from: a Perdure that knows this revision can live with the schema.
        gone: indexes of the head that are not there, or half built.
    """

    revision: str | None = None
    compatible_from: str | None = None
    gone: tuple[str, ...] = ()

    def fits(self, schema: Schema) -> bool:
        """Whether there is nothing to do."""
        return self.revision is not None and self.revision >= schema.head and not self.gone

    def __str__(self) -> str:
        if self.gone:
            return f"schema {self.revision} without the indexes {', '.join(self.gone)}"
        return f"schema {self.revision}" if self.revision else "no Perdure tables"


class Step(Record):
    """Statements that are one transaction; or not `atomic`: each is by itself."""

    statements: tuple[str, ...]
    atomic: bool


async def prepare(database: PostgresDatabase, schema: Schema, *, change: bool) -> None:
    """Bring the schema to its head (with `change`), or check that it is there, or that this Perdure can live with it.

    Raises:
        SchemaMismatch: it is too new for this Perdure; or older, and may not be changed.
        StoreCorrupt: tables of these names are there, but they are not Perdure's.
    """
    found = await database.run(lambda connection: find(connection, schema))
    if not found.fits(schema):
        if not change:
            raise SchemaMismatch(
                f"{database.address} has {found}, this Perdure needs {schema.head}: run `perdure store init` "
                "as a user that may change tables"
            )
        found = await _upgrade(database, schema)
    if (found.compatible_from or schema.head) > schema.head:
        raise SchemaMismatch(
            f"{database.address} has schema {found.revision}, newer than this Perdure's {schema.head}; it suits those "
            f"that know {found.compatible_from}: upgrade Perdure"
        )


async def find(connection: Connection, schema: Schema) -> Found:
    """Read which revision the database is at."""
    # By a scan of the catalog: `to_regclass` may remember that there was nothing before we waited for the lock.
    made = "SELECT EXISTS (SELECT FROM pg_class WHERE relname = $1 AND pg_table_is_visible(oid))"
    async with connection.transaction(
        isolation="read_committed"
    ):  # a pooler's connections are by transaction
        if not await connection.fetchval(made, schema.version_table):
            return Found()
        row = await connection.fetchrow(NOTED.format(table=schema.version_table))
        if row is None:
            return Found()
        indexes = schema.indexes if row[0] == schema.head else ()
        gone = [name for name in indexes if await connection.fetchval(INDEX_STATE, name) != "ready"]
    return Found(revision=row[0], compatible_from=row[1] or row[0], gone=tuple(gone))


async def _upgrade(database: PostgresDatabase, schema: Schema) -> Found:
    """Run the missing revisions, unless somebody else does; what is there then."""
    with translated(database.address):
        async with database.alone() as guard, database.alone() as connection:
            waited = 0
            while not await _lock(guard):
                if (found := await find(connection, schema)).fits(schema):
                    return found
                if (waited := waited + 1) % SAY_EVERY == 0:
                    log.warning("another process changes the tables of %s; waiting for it", database.address)
                await _pause(1.0)
            found = await find(connection, schema)
            todo = _repairs if found.gone else steps
            for step in () if found.fits(schema) else await asyncio.to_thread(todo, schema, found):
                await guard.execute("SELECT 1")  # whoever lost the lock stops
                await run_step(connection, step)
            return await find(connection, schema)


async def _lock(connection: Connection) -> bool:
    """Try to get the right to change schemas, for as long as the connection lives.

    A transaction holds it that is left idle, so that it works behind a pooler, too. What is done CONCURRENTLY waits for
    all snapshots: a statement that waited for the lock would have one, and so has a transaction whose last statement was
    a prepared one (its portal stays open). Hence `execute` without values.
    """
    transaction = connection.transaction(isolation="read_committed")
    await transaction.start()
    if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", LOCK):
        await connection.execute(PATIENCE)
        return True
    await transaction.rollback()
    return False


async def run_step(connection: Connection, step: Step) -> None:
    """Do one step, in the gaps that others leave. A crash in the middle leaves nothing, or what the next try mends."""
    if not step.atomic:
        for statement in step.statements:
            await _run_alone(connection, statement)
        return
    for attempt in range(1, TRIES + 1):
        try:
            async with connection.transaction(isolation="read_committed"):
                await connection.execute(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
                for statement in step.statements:
                    await connection.execute(statement)
        except _IN_THE_WAY as error:
            if attempt == TRIES:
                raise
            log.warning("a table is in use; the schema's next step is tried again: %s", error)
        except (asyncpg.DuplicateTableError, asyncpg.DuplicateObjectError) as error:
            raise StoreCorrupt(
                f"this database has tables of Perdure's names that Perdure did not make ({error}); use another "
                "database or schema, or move them away"
            ) from error
        else:
            return
        await _pause(min(LONGEST_PAUSE, 0.2 * attempt))


async def _run_alone(connection: Connection, statement: str) -> None:
    """Run a statement that bears no transaction. An index that a crash left half built is built again."""
    if built := _INDEX.match(statement):
        name = built[3]
        while (state := await _index(connection, name)) == "building":
            log.info("index %s is still being built for a process that died; waiting", name)
            await _pause(1.0)
        if state == "ready":
            return
        log.info("index %s is %s; it is built now", name, state or "not there")
        if state == "broken":
            await connection.execute(f"DROP INDEX CONCURRENTLY {name}")
    try:
        await connection.execute(statement)
    except asyncpg.UniqueViolationError as error:
        raise StoreCorrupt(
            f"while an index was missing, what must be unique came in twice ({error.detail}); delete all but one, then try again"
        ) from error


async def _index(connection: Connection, name: str) -> str | None:
    async with connection.transaction():
        state: str | None = await connection.fetchval(INDEX_STATE, name)
    return state


async def _pause(longest: float) -> None:
    await asyncio.sleep(random.uniform(0.05, longest))  # noqa: S311  # jitter, not a secret


def _repairs(schema: Schema, found: Found) -> tuple[Step, ...]:
    """What builds the indexes that are gone."""
    texts = [text for step in steps(schema, Found()) for text in step.statements]
    made = {
        match[3]: f"{match[1]} CONCURRENTLY {text[match.start(3) :]}"
        for text in texts
        if (match := _INDEX.match(text))
    }
    return (Step(statements=tuple(made[name] for name in found.gone), atomic=False),)


@lru_cache
def steps(schema: Schema, found: Found) -> tuple[Step, ...]:
    """The steps that lead from what was found to the head."""
    from alembic import command
    from alembic.config import Config

    tape = _Tape()
    config = Config(output_buffer=tape)
    here = Path(__file__).parent
    config.set_main_option("script_location", str(here / "alembic").replace("%", "%%"))
    config.set_main_option("version_locations", str(schema.scripts / "versions").replace("%", "%%"))
    config.set_main_option("path_separator", "newline")  # there is one path, with whatever is in it
    config.set_main_option("perdure_version_table", schema.version_table)
    with _one_at_a_time:
        command.upgrade(config, f"{found.revision or 'base'}:{schema.head}", sql=True)
    return tape.steps()


class _Tape(io.StringIO):
    """Alembic writes each statement by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._steps: list[tuple[bool, list[str]]] = [(False, [])]

    def write(self, text: str) -> int:
        statement = text.strip()
        if statement in {"BEGIN;", "COMMIT;"}:
            self._steps.append((statement == "BEGIN;", []))
        elif not statement.startswith("--"):
            self._steps[-1][1].append(statement)
        return len(text)

    def steps(self) -> tuple[Step, ...]:
        return tuple(
            Step(statements=tuple(statements), atomic=atomic)
            for atomic, statements in self._steps
            if statements
        )
