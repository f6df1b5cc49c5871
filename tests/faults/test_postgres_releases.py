"""Workers of an earlier release and of today's run the same jobs before, while and after the schema changes."""

from __future__ import annotations

import asyncio
import os
import sys
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

import perdure
from perdure.core.check import check
from perdure.core.jobs import JobService
from perdure.databases.postgres.migrate import Found, find
from perdure.domain.job import DEFAULT_TENANT
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.stores.postgres import PostgresJobStore
from perdure.stores.postgres.store import SCHEMA
from tests.servers.postgres import fresh_database
from tests.servers.postgres_upgrade import (
    BUILDING,
    INDEXED,
    SNAPSHOT,
    connected,
    held,
    next_schema,
    revisions,
    upgrade,
)

RELEASES = Path(__file__).parents[1] / "releases"
KEPT = {path.stem.removeprefix("jobs-"): path for path in sorted(RELEASES.glob("jobs-*.zip"))}
REVISIONS = revisions(SCHEMA)
LIVING = [revision for revision in REVISIONS if revision >= REVISIONS[SCHEMA.head]]
"""Whose code can live with today's schema."""
TODAY = Path(perdure.__file__).parent
KINDS = ("quick", "long", "asking", "flaky")
PATIENCE = 100.0

server = [
    pytest.mark.server,
    pytest.mark.fault,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("postgres"),
]


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        yield url


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():
            await asyncio.sleep(0.05)


class Release:
    """A process that works with one release's code."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.code = Path()
        self.added: list[str] = []
        self.ran: list[str] = []
        self._name = name
        self._process, self._in, self._out, self._err = (
            process,
            process.stdin,
            process.stdout,
            process.stderr,
        )
        self._listening = asyncio.create_task(self._listen())

    async def _listen(self) -> None:
        while line := (await self._out.readline()).decode():
            word, what = line.rstrip().split(maxsplit=1)
            if word == "ready":
                self.code = Path(what)
            else:
                {"added": self.added, "ran": self.ran}[word].append(what)

    async def ready(self) -> None:
        async def said() -> bool:
            assert not self._listening.done(), await self.last_words()
            return self.code != Path()

        await until(said)

    async def add(self, kind: str, number: int) -> set[str]:
        """The ids of new jobs; they are durable."""

        async def said() -> bool:
            assert not self._listening.done(), await self.last_words()
            return len(self.added) == before + number

        before = len(self.added)
        self._in.write(f"add {kind} {number}\n".encode())
        await until(said)
        return set(self.added[before:])

    async def runs_its_own(self) -> None:
        """Some of every kind come in here, and those that nobody else runs come to their end."""

        async def done() -> bool:
            assert not self._listening.done(), await self.last_words()
            return own <= set(self.ran)

        for kind in KINDS:
            await self.add(kind, 5)
        own = await self.add(f"only-{self._name}", 10)
        await until(done)

    async def drain(self) -> None:
        self._in.close()
        said = await self.last_words()
        assert self._process.returncode == 0, said

    async def last_words(self) -> str:
        said = (await self._err.read()).decode()
        await self._process.wait()
        await self._listening
        return said


@asynccontextmanager
async def release(url: str, name: str, gate: Path, code: Path = TODAY) -> AsyncIterator[Release]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", str(RELEASES / "worker.py"), url, name, str(gate)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(code.parent)},
    )
    try:
        yield Release(process, name)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def found_in(connection: asyncpg.Connection[asyncpg.Record]) -> Found:
    return await find(connection, SCHEMA)


async def versions(connection: asyncpg.Connection[asyncpg.Record]) -> dict[str, int]:
    """Of running jobs; each heartbeat makes them grow. By plain SQL: today's store may not know yesterday's tables."""
    rows = await connection.fetch(
        "SELECT id, version FROM perdure_jobs WHERE kind = 'long' AND state = 'running'"
    )
    return {str(row["id"]): row["version"] for row in rows}


async def finish(store: PostgresJobStore) -> None:
    """Answer all questions, until every job has come to its end."""
    jobs = JobService(store)

    async def answered() -> bool:
        for job in await store.find(JobFilter(tenant=None, states=(JobState.WAITING,)), 1000):
            await jobs.respond(job.id, "yes", tenant=DEFAULT_TENANT)
        counts = (await store.stats(None)).by_state
        return counts[JobState.COMPLETED] == sum(counts.values())

    await jobs.start()
    await until(answered)
    await jobs.close()


async def check_each_ran_once(store: PostgresJobStore, releases: list[Release]) -> None:
    added = [job_id for one in releases for job_id in one.added]
    assert Counter(job_id for one in releases for job_id in one.ran) == Counter(added)
    for job_id in added:
        job = await store.get(DEFAULT_TENANT, job_id)
        assert job is not None
        assert (job.state, job.rescues) == (JobState.COMPLETED, 0)
        story = [entry.event for entry in await store.history(DEFAULT_TENANT, job_id)]
        assert story.count(Event.COMPLETED) == 1
    assert [finding async for finding in check(store)] == []


def test_each_revision_that_was_left_is_kept() -> None:
    assert REVISIONS.keys() - {SCHEMA.head} <= KEPT.keys(), "see tests/releases/README.md"


@pytest.mark.parametrize("revision", LIVING)
class TestReleases:
    pytestmark = server

    @pytest.fixture
    def old_code(self, revision: str, tmp_path: Path) -> Path:
        if revision not in KEPT:
            return TODAY
        with zipfile.ZipFile(KEPT[revision]) as kept:
            kept.extractall(tmp_path / revision)
        return tmp_path / revision / "src" / "perdure"

    async def test_both_work_through_an_upgrade_and_each_job_runs_once(
        self, url: str, old_code: Path, revision: str, tmp_path: Path
    ) -> None:
        gate = tmp_path / "gate"
        async with AsyncExitStack() as stack:
            look = await stack.enter_async_context(connected(url))
            old = await stack.enter_async_context(release(url, "old", gate, old_code))
            await old.ready()
            assert old.code == old_code
            assert (await found_in(look)).revision == revision
            await old.runs_its_own()
            waiting = "SELECT count(*) = 5 FROM perdure_jobs WHERE state = 'waiting'"
            await until(lambda: look.fetchval(waiting))
            before = await versions(look)
            assert len(before) == 5

            # Today's first worker brings the schema up to date; then a later one's changes it, for a while.
            new = await stack.enter_async_context(release(url, "new", gate))
            await new.ready()
            assert new.code == TODAY
            assert (await found_in(look)).revision == SCHEMA.head
            async with asyncio.TaskGroup() as group, held(url, SNAPSHOT):
                upgrading = group.create_task(upgrade(url, next_schema(tmp_path / "next", LIVING[0])))
                await until(lambda: look.fetchval(BUILDING))
                await old.runs_its_own()
                await new.runs_its_own()
                assert not upgrading.done()
            assert await found_in(look) == Found(revision=INDEXED, compatible_from=LIVING[0])

            again = await stack.enter_async_context(release(url, "again", gate, old_code))
            for one in (old, new, again):
                await one.ready()
                await one.runs_its_own()

            async def beating() -> bool:
                now = await versions(look)
                return all(now[job_id] > version for job_id, version in before.items())

            await until(beating)
            gate.touch()
            store = PostgresJobStore(url)
            await finish(store)
            for one in (old, new, again):
                await one.drain()
            await check_each_ran_once(store, [old, new, again])
            await store.close()

    async def test_an_earlier_release_refuses_a_schema_that_does_not_suit_it(
        self, url: str, old_code: Path, tmp_path: Path
    ) -> None:
        await upgrade(url, next_schema(tmp_path / "next", INDEXED))
        async with release(url, "old", tmp_path / "gate", old_code) as old:
            said = await old.last_words()
        assert "SchemaMismatch" in said
        assert f"has schema {INDEXED}, newer than this Perdure's" in said
        assert "upgrade Perdure" in said
