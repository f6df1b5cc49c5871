"""The hot statements go by index, however full the tables are and whatever the statistics say.

Tried in sizes from a few thousand to a million finished jobs, each after ANALYZE, as the planner sees them with the values
bound; on smaller tables it does not matter.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from perdure.databases.postgres import PostgresDatabase, load_queries
from perdure.databases.postgres.codecs import equip
from perdure.databases.postgres.database import LASTING
from perdure.domain.ids import uuid7
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.stores.postgres import PostgresJobStore, finding
from perdure.stores.postgres.floor import FIRST, with_floor
from tests.servers.postgres import fresh_database
from tests.servers.postgres_plans import kept_scans, scans

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

QUERIES = load_queries("perdure.stores.postgres", "queries.sql")
NOW = datetime.now(UTC)
IDS = [uuid7(NOW, number) for number in range(500)]
NONE: list[Any] = [None] * 500

FILL = """
INSERT INTO perdure_jobs (id, tenant, kind, state, due_at, created_at, updated_at, priority, epoch, version, attempt,
                          max_attempts, rescues, max_rescues, worker, user_id, document_id, payload)
SELECT gen_random_uuid(), 'tenant-' || n % 5, 'work', $2, now() + $3, now(), now(), 0, 1, 1, 0, 3, 0, 3, 'w',
       'user-' || n % 1000, 'doc-' || n, '{}'
FROM generate_series(1, $1) AS n"""
HISTORY = "INSERT INTO perdure_history SELECT id, 1, gen_random_uuid(), '{}' FROM perdure_jobs"
COUNTS = (
    """INSERT INTO perdure_counts SELECT tenant, kind, state, count(*) FROM perdure_jobs GROUP BY 1, 2, 3"""
)


def page(*expected: str, tenant: str | None = "tenant-1", **asked: Any) -> tuple[str, list[Any], set[str]]:
    text, values = finding.page(QUERIES, JobFilter(tenant=tenant, **asked), 50, None)
    return text, list(values), set(expected)


HOT: dict[str, tuple[str, list[Any], set[str]]] = {
    "claim": (
        QUERIES["claim"],
        ["w", ["work", "report"], 500, timedelta(minutes=1), [0], ["tenant-2"]],
        {"perdure_jobs_pending", "perdure_jobs_pkey"},
    ),
    "claim from where the line lives": (
        with_floor(QUERIES["claim"]),
        ["w", ["work", "report"], 500, timedelta(minutes=1), [0], ["tenant-2"], NOW - timedelta(hours=2)],
        {"perdure_jobs_pending", "perdure_jobs_pkey"},
    ),
    "claim on terms: priority": (QUERIES["next_rung"], [["work"], -1001], {"perdure_jobs_pending"}),
    "claim on terms: tenants": (
        QUERIES["next_tenants"],
        [["work"], 0, 500, "tenant-2", ["work"], ["tenant-1"]],
        {"perdure_jobs_pending"},
    ),
    "claim on terms: jobs": (
        QUERIES["next_in_lanes"],
        [["work"] * 5, [f"tenant-{n}" for n in range(5)], [100] * 5, 0],
        {"perdure_jobs_pending"},
    ),
    "claim on terms: take": (
        QUERIES["take"],
        ["w", IDS, 500, timedelta(minutes=1)],
        {"perdure_jobs_pkey"},
    ),
    "extend": (
        QUERIES["extend"],
        ["w", IDS, list(range(500)), timedelta(minutes=1)],
        {"perdure_jobs_pkey"},
    ),
    "apply": (
        QUERIES["apply"],
        [IDS, [1] * 500, NONE, ["running"] * 500, ["completed"] * 500, [NOW] * 500, [NOW] * 500, [NOW] * 500]
        + [[1] * 500, [0] * 500, NONE, IDS, ["{}"] * 500]
        + [[]] * 5,
        {"perdure_jobs_pkey"},
    ),
    "written_before": (QUERIES["written_before"], [IDS, IDS], {"perdure_history_pkey"}),
    "remove": (QUERIES["remove"], [IDS[:100]], {"perdure_jobs_pkey", "perdure_history_pkey"}),
    "purge": (QUERIES["purge"], [100, FIRST], {"perdure_jobs_finished"}),
    "expired": (QUERIES["expired"], [100, FIRST], {"perdure_jobs_overdue"}),
    "get": (QUERIES["get"], [IDS[:1]], {"perdure_jobs_pkey"}),
    "history": (QUERIES["history"], ["tenant-1", IDS[0]], {"perdure_jobs_pkey", "perdure_history_pkey"}),
    "known": (QUERIES["known"], [IDS, ["tenant-1"], ["k"]], {"perdure_jobs_pkey", "perdure_jobs_key"}),
    "tenants": (QUERIES["tenants"], ["", 100], {"perdure_jobs_pending"}),
    "log from its beginning": (
        QUERIES["log"],
        ["0", IDS[0], -1, 500],
        {"perdure_history_log", "perdure_jobs_pkey"},
    ),
    "log near its end": (
        QUERIES["log"],
        ["999999999", IDS[0], -1, 500],
        {"perdure_history_log", "perdure_jobs_pkey"},
    ),
    "end_of_log": (QUERIES["end_of_log"], [], {"perdure_history_log"}),
    "page": page("perdure_jobs_listed"),
    "page of a rare state": page("perdure_jobs_listed", states=(JobState.FAILED,)),
    "page of a common state": page("perdure_jobs_listed", states=(JobState.COMPLETED,)),
    "page of all that runs": page(
        "perdure_jobs_overdue", "perdure_jobs_pkey", tenant=None, states=(JobState.RUNNING,)
    ),
    "page of the oldest": page("perdure_jobs_listed", oldest_first=True),
    "page of a user's oldest": page("perdure_jobs_by_user", user_id="user-1", oldest_first=True),
    "page of a user": page("perdure_jobs_by_user", user_id="user-1"),
    "page of a document": page("perdure_jobs_by_document", document_id="doc-1"),
    "page of a user's state": page("perdure_jobs_by_user", user_id="user-1", states=(JobState.COMPLETED,)),
}
KEPT = ("claim", "claim from where the line lives", "extend", "apply", "get")
"""Those whose plans are kept."""
TABLES = {"perdure_jobs", "perdure_history"}


@pytest_asyncio.fixture
async def database(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        store = PostgresJobStore(PostgresDatabase(url))
        await store.setup()
        await store.close()
        yield url


async def fill(url: str, finished: int, pending: int, running: int, *, analyze: bool = True) -> None:
    connection = await asyncpg.connect(url, command_timeout=600)
    for number, state, due in ((finished, "completed", 1), (pending, "pending", -1), (running, "running", 1)):
        await connection.execute(FILL, number, state, timedelta(hours=due))
    await connection.execute(HISTORY)
    await connection.execute(COUNTS)
    if analyze:
        await connection.execute("ANALYZE")
    await connection.close()


async def plans(url: str) -> dict[str, set[str]]:
    connection = await asyncpg.connect(url)
    await equip(connection)
    found = {}
    for name, (text, values, _) in HOT.items():
        found[name] = await scans(connection, text, values, TABLES)
    await connection.close()
    return found | await kept_plans(url)


async def kept_plans(url: str) -> dict[str, set[str]]:
    connection = await asyncpg.connect(url, server_settings=LASTING)
    found = {}
    for name in KEPT:
        statement = await connection.prepare(HOT[name][0])
        found[f"{name}, kept"] = await kept_scans(connection, statement, TABLES)
    await connection.close()
    return found


def wrong(found: dict[str, set[str]]) -> dict[str, set[str]]:
    expected = {name: HOT[name.removesuffix(", kept")][2] for name in found}
    return {name: ways - expected[name] for name, ways in found.items() if not ways or ways - expected[name]}


@pytest.mark.parametrize(
    ("finished", "pending", "running"),
    [(3000, 300, 0), (20_000, 5_000, 0), (20_000, 0, 5_000), (0, 40_000, 100)],
)
async def test_every_plan_goes_by_index(database: str, finished: int, pending: int, running: int) -> None:
    await fill(database, finished, pending, running)
    assert wrong(await plans(database)) == {}


async def test_users_and_documents_are_found_by_index_before_anything_was_analyzed(database: str) -> None:
    await fill(database, 100_000, 1_000, 100, analyze=False)
    found = wrong(await plans(database))
    assert not [name for name in found if name.startswith(("page of a user", "page of a document"))]


async def test_every_plan_goes_by_index_where_dead_jobs_stay_and_none_was_pending_when_it_was_analyzed(
    database: str,
) -> None:
    """As a transaction that is held open leaves it: the index of pending jobs is large, and of few."""
    await fill(database, 3000, 40_000, 0)
    report, connection = await asyncpg.connect(database), await asyncpg.connect(database)
    await report.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    await report.fetch("SELECT FROM perdure_jobs LIMIT 1")
    await connection.execute("UPDATE perdure_jobs SET state = 'completed' WHERE state = 'pending'")
    await connection.execute("VACUUM ANALYZE perdure_jobs")
    await connection.execute(FILL, 5000, "pending", timedelta(hours=-1))
    found = wrong(await plans(database))
    await report.close()
    await connection.close()
    assert found == {}


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_every_plan_goes_by_index_with_a_million_finished_jobs(database: str) -> None:
    await fill(database, 1_000_000, 50_000, 500)
    assert wrong(await plans(database)) == {}


@pytest.mark.parametrize("finished", [0, 1, 3000])
@pytest.mark.parametrize("pending", [0, 1, 3000])
async def test_every_kept_plan_goes_by_index_where_nobody_has_counted(
    database: str, finished: int, pending: int
) -> None:
    await fill(database, finished, pending, pending, analyze=False)
    assert await enough(database)
    assert wrong(await kept_plans(database)) == {}


@pytest.mark.parametrize(("finished", "pending", "running"), [(1000, 0, 0), (0, 1000, 0), (0, 0, 1000)])
async def test_every_kept_plan_goes_by_index_from_the_number_on_where_plans_are_kept(
    database: str, finished: int, pending: int, running: int
) -> None:
    await fill(database, finished, pending, running)
    assert await enough(database)
    assert wrong(await kept_plans(database)) == {}


@pytest.mark.parametrize("told", ["ANALYZE", "VACUUM", "VACUUM ANALYZE"])
async def test_no_plan_is_kept_of_when_there_was_next_to_nothing(database: str, told: str) -> None:
    await fill(database, 0, 100, 0, analyze=False)
    connection = await asyncpg.connect(database)
    assert await enough(database)
    await connection.execute(told)
    assert not await enough(database)
    await connection.execute("DELETE FROM perdure_jobs")
    await connection.execute(told)
    await connection.close()
    assert not await enough(database)


async def enough(url: str) -> bool:
    connection = await asyncpg.connect(url)
    believed = await connection.fetchval(QUERIES["enough"])
    await connection.close()
    return bool(believed)


async def test_a_plan_that_was_made_on_an_empty_table_reads_as_little_of_a_full_one(database: str) -> None:
    connection = await asyncpg.connect(database, server_settings=LASTING)
    await equip(connection)
    claim, look = [await connection.prepare(HOT[name][0]) for name in ("claim", "get")]
    await claim.fetch("w", ["work"], 10, timedelta(minutes=1), [], [])
    await look.fetch(IDS[:1])
    await fill(database, 20_000, 20_000, 5000, analyze=False)
    taken = await claim.fetch("w", ["work"], 10, timedelta(minutes=1), [], [])
    found = await look.fetch([row["id"] for row in taken])
    read = {
        statement: await blocks(connection, f"EXECUTE {statement.get_name()} ({values})")
        for statement, values in (
            (claim, "'w', '{work}', 10, '1 min', '{}', '{}'"),
            (look, f"ARRAY ['{taken[0]['id']}'::uuid]"),
        )
    }
    await connection.close()
    assert len(taken) == len(found) == 10
    assert read[claim] < 500
    assert read[look] < 20


async def blocks(connection: asyncpg.Connection[asyncpg.Record], statement: str) -> int:
    """How many pages it reads or writes."""
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}")
    plan = json.loads(text)[0]["Plan"]
    return int(plan["Shared Hit Blocks"] + plan["Shared Read Blocks"])


@pytest.mark.parametrize(("size", "counted", "kept"), [(1, False, 0), (3, False, 10), (3, True, 0)])
async def test_a_third_of_the_connections_keep_plans(
    database: str, size: int, counted: bool, kept: int
) -> None:
    if counted:
        await fill(database, 1, 0, 0)
    store_database = PostgresDatabase(f"{database}?pool_size={size}&hints=off")
    store = PostgresJobStore(store_database)
    for _ in range(10):
        await store.claim("w", ["work"], 10, timedelta(minutes=1))
        await store.expired(10)
    made = "SELECT statement, generic_plans, custom_plans FROM pg_prepared_statements"
    rows = [
        row
        for lasting in {False, store_database.keeps_plans}
        for row in await store_database.run(lambda connection: connection.fetch(made), lasting=lasting)
    ]
    await store.close()
    used = {row["statement"]: (row["generic_plans"], row["custom_plans"]) for row in rows}
    assert used[QUERIES["claim"]] == (kept, 10 - kept)
    assert used[QUERIES["expired"]] == (0, 10)
