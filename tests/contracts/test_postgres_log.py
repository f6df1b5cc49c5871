"""The log of all entries on PostgreSQL: what commits late, what an old worker writes, whose numbers a position has."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest
import pytest_asyncio

from perdure.domain import transition
from perdure.domain.errors import CursorLost
from perdure.domain.job import Job
from perdure.domain.transition import Transition
from perdure.stores.postgres import PostgresJobStore
from perdure.testing.jobs.base import running, stamp, written
from tests.servers.postgres import fresh_database

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

BEFORE_0002 = """
INSERT INTO perdure_history (job_id, version, id, entry)
SELECT id, version, gen_random_uuid(), (SELECT entry FROM perdure_history LIMIT 1) FROM perdure_jobs WHERE id = $1
"""


@pytest_asyncio.fixture
async def url(postgres_url: str) -> AsyncIterator[str]:
    async with fresh_database(postgres_url) as url:
        yield url


@pytest_asyncio.fixture
async def store(url: str) -> AsyncIterator[PostgresJobStore]:
    store = PostgresJobStore(url)
    await store.setup()
    yield store
    await store.close()


async def ended(store: PostgresJobStore, job: Job) -> Transition:
    move = transition.complete(job, 0, await stamp(store))
    assert await written(store, move)
    return move


async def test_what_commits_late_comes_in_its_place(store: PostgresJobStore, url: str) -> None:
    """A reader waits for it, rather than pass it by; an old worker, which knows of no log, is in it."""
    first, late, last = [await running(store) for _ in range(3)]
    start = (await store.entries(None, 9)).next
    await ended(store, first)
    slow = await asyncpg.connect(url)
    async with slow.transaction():
        await slow.execute(BEFORE_0002, late.id)
        await ended(store, last)
        page = await store.entries(start, 9)
        assert [line.job_id for line in page.lines] == [first.id]
        assert (await store.entries(page.next, 9)).lines == ()
    await slow.close()
    assert [line.job_id for line in (await store.entries(page.next, 9)).lines] == [late.id, last.id]
    assert [line.job_id for line in (await store.entries(start, 9)).lines] == [first.id, late.id, last.id]


async def test_what_was_never_written_leaves_no_gap(store: PostgresJobStore, url: str) -> None:
    """The log's end names a line, not the number of a transaction, which a crash may give to another."""
    job, other = [await running(store) for _ in range(2)]
    assert (await store.entries(None, 9)).next.startswith("0/")
    await ended(store, job)
    position = (await store.entries(None, 9)).next
    look = await asyncpg.connect(url)
    for _ in range(3):
        await look.fetchval("SELECT pg_current_xact_id()")
    await look.close()
    assert (await store.entries(None, 9)).next == position
    await ended(store, other)
    assert [line.job_id for line in (await store.entries(position, 9)).lines] == [other.id]


async def test_entries_of_before_the_log_are_not_in_it(store: PostgresJobStore, url: str) -> None:
    """And so are those of a dump that was read into another server."""
    old, new = [await running(store) for _ in range(2)]
    await ended(store, old)
    look = await asyncpg.connect(url)
    await look.execute("UPDATE perdure_history SET tx = NULL")
    await look.close()
    start = (await store.entries(None, 9)).next
    await ended(store, new)
    assert [line.job_id for line in (await store.entries(start, 9)).lines] == [new.id]


async def test_a_position_of_another_server_is_refused(store: PostgresJobStore) -> None:
    with pytest.raises(CursorLost, match="of another server"):
        await store.entries("999999999999/00000000-0000-0000-0000-000000000000/1", 9)
