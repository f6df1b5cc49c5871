"""The SQLite store keeps the contract, with a clock that is moved by hand; the second handle has connections of its own,
as another process would.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import apsw
import pytest
import pytest_asyncio
from apsw.ext import query_info
from msgspec.structs import replace

from perdure.databases.sqlite import MEMORY, SqliteDatabase, database
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.ports.job_store import Capabilities, JobStore
from perdure.stores.sqlite import SqliteJobStore, claiming
from perdure.stores.sqlite.queries import COMPONENT, SQL, STEPS
from perdure.testing import JobStoreContract
from perdure.testing.builders import KIND, make_job
from perdure.testing.clock import MovableClock

LEASE = timedelta(minutes=5)


def plan(connection: apsw.Connection, statement: str) -> list[str]:
    """The steps by which SQLite would answer it, whatever its values are."""
    values = (None,) * query_info(connection, statement).bindings_count
    return [str(step) for *_, step in connection.execute("EXPLAIN QUERY PLAN " + statement, values)]


class TestSqliteJobStore(JobStoreContract):
    capabilities = Capabilities(
        durable=True,
        multi_process=True,
        change_feed=True,
        native_ttl=False,
        constant_stats=True,
        transactions=True,
    )

    @pytest_asyncio.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[SqliteJobStore]:
        self.path = tmp_path / "perdure.db"
        self.clock = MovableClock()
        store = SqliteJobStore(self.path, self.clock)
        await store.setup()
        yield store
        await store.close()

    async def second(self, store: JobStore) -> JobStore:
        database._shared.clear()  # or it would share the first one's connections
        handle = SqliteJobStore(self.path, self.clock)
        await handle.setup()
        return handle

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


class TestSqliteJobStoreInMemory(JobStoreContract):
    capabilities = Capabilities(
        durable=False,
        multi_process=False,
        change_feed=True,
        native_ttl=False,
        constant_stats=True,
        transactions=True,
    )

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[SqliteJobStore]:
        self.clock = MovableClock()
        store = SqliteJobStore(MEMORY, self.clock)
        await store.setup()
        yield store
        await store.close()

    async def advance(self, store: JobStore, seconds: float) -> None:
        self.clock.advance(timedelta(seconds=seconds))


def spelt(statement: str) -> str:
    """The statement with two rows where it takes some."""
    told = re.findall(r"column(\d+)", statement)
    columns = max(map(int, told)) if told else len(statement.partition(")")[0].split(","))
    row = f"({', '.join('?' * columns)})"
    return statement.replace("{rows}", f"{row}, {row}")


class TestItsStatements:
    """What keeps the costs flat cannot be left to chance: an index that is not used shows in the plan."""

    @pytest_asyncio.fixture
    async def database(self, tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
        database = await SqliteDatabase.open(tmp_path / "perdure.db")
        await database.migrate(COMPONENT, STEPS)
        yield database
        await database.close()

    @pytest.mark.parametrize("name", sorted(SQL))
    async def test_none_scans_or_sorts_jobs(self, database: SqliteDatabase, name: str) -> None:
        steps = await database.read(lambda connection: plan(connection, spelt(SQL[name])))
        assert [
            step for step in steps if re.match("SCAN (jobs|job_rows|job_history|job_payloads)", step)
        ] == []
        if name not in {"census", "stats_of_all"}:  # over what was found, or the few counters
            assert [step for step in steps if "TEMP B-TREE" in step] == []


class TestItsQueue:
    """Only for SQLite: what the contract says about turns, at numbers that a contract should not ask for."""

    async def test_more_tenants_than_the_limit_all_get_their_turn(self, tmp_path: Path) -> None:
        store = SqliteJobStore(tmp_path / "perdure.db")
        await store.setup()
        now = await store.now()
        await store.add([make_job(now, tenant=f"t{n % 30:02}") for n in range(90)])
        served = [job.tenant for _ in range(9) for job in await store.claim("w", [KIND], 10, LEASE)]
        assert [len(set(served[start : start + 30])) for start in (0, 30, 60)] == [30, 30, 30]
        await store.close()

    async def test_what_one_tenant_leaves_goes_to_the_others(self, tmp_path: Path) -> None:
        store = SqliteJobStore(tmp_path / "perdure.db")
        await store.setup()
        now = await store.now()
        many = [make_job(now, tenant="many", kind=kind) for kind in ("a", "b") for _ in range(20)]
        few = [make_job(now, tenant="few", kind="a") for _ in range(2)]
        await store.add([*many, *few])
        claimed = await store.claim("w", ["a", "b", "a"], 11, LEASE)
        assert [job.tenant for job in claimed] == ["few", "many"] * 2 + ["many"] * 7
        assert [job.id for job in claimed if job.tenant == "many"] == [job.id for job in many[:9]]
        await store.close()

    async def test_much_becoming_due_at_once_is_put_into_line_in_bites(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(claiming, "PROMOTED", 5)
        clock = MovableClock()
        store = SqliteJobStore(tmp_path / "perdure.db", clock)
        await store.setup()
        jobs = [make_job(clock(), due_at=clock() + timedelta(seconds=n)) for n in range(1, 13)]
        await store.add(jobs)
        clock.advance(timedelta(minutes=1))
        claimed = [await store.claim("w", [KIND], 100, LEASE) for _ in range(4)]
        assert [len(some) for some in claimed] == [5, 5, 2, 0]
        assert [job.id for some in claimed for job in some] == [job.id for job in jobs]
        await store.close()


async def test_setting_up_at_once_opens_once(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "perdure.db")
    await asyncio.gather(*(store.setup() for _ in range(5)))
    database = await SqliteDatabase.open(tmp_path / "perdure.db")
    await store.close()
    await database.close()
    with pytest.raises(StoreUnavailable):
        await database.read(lambda connection: None)


async def test_before_its_setup_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match=r"call setup\(\) first"):
        await SqliteJobStore(tmp_path / "perdure.db").stats(None)


async def test_an_id_of_another_tenant_is_refused_and_not_shown(tmp_path: Path) -> None:
    store = SqliteJobStore(tmp_path / "perdure.db")
    await store.setup()
    [job] = await store.add([make_job(await store.now(), tenant="acme")])
    with pytest.raises(InvalidInput, match="is taken"):
        await store.add([make_job(job.created_at), replace(job, tenant="bolt")])
    assert (await store.stats(None)).total == 1
    await store.close()
