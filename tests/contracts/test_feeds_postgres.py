"""The feeds of a PostgreSQL table keep the contract on a real server; and what transactions do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from perdure.domain.change import Change
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.domain.record import Json
from perdure.feeding import migration
from perdure.feeds.named import make_feed
from perdure.feeds.postgres import POSITION, OutboxFeed, PollingFeed
from perdure.testing.change_feed import ChangeFeedContract, Reader
from tests.servers.postgres import fresh_database

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("postgres")]

TABLE = """
CREATE TABLE "Papers" (
    id text PRIMARY KEY, body text, lang text, tags jsonb, seen int DEFAULT 0,
    updated timestamptz DEFAULT clock_timestamp(), gone boolean DEFAULT false)
"""
UPSERT = """
INSERT INTO "Papers" (id, body, lang) VALUES ($1, $2, 'en')
ON CONFLICT (id) DO UPDATE SET body = excluded.body, gone = false, updated = clock_timestamp()
"""
COLUMNS = "table=Papers&text=body&metadata=lang,tags"


class Rows:
    """A table that its outbox tells of."""

    options = COLUMNS

    def __init__(self, url: str, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self.url, self.connection = f"{url}?{self.options}", connection
        self.feeds: list[Any] = []

    async def put(self, document_id: str, text: str) -> None:
        await self.connection.execute(UPSERT, document_id, text)

    async def remove(self, document_id: str) -> None:
        await self.connection.execute('DELETE FROM "Papers" WHERE id = $1', document_id)

    async def rot(self) -> None:
        await self.put("rotten", " ")

    async def text(self, change: Change) -> str:
        return change.text or ""

    def feed(self) -> Any:
        self.feeds.append(make_feed(self.url, tenant="default", namespace="default"))
        return self.feeds[-1]


class PolledRows(Rows):
    """A table that is asked what changed since."""

    options = f"{COLUMNS}&updated_at=updated&deleted=gone&lag=0"

    async def remove(self, document_id: str) -> None:
        await self.connection.execute(
            'UPDATE "Papers" SET gone = true, updated = clock_timestamp() WHERE id = $1', document_id
        )


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[tuple[str, asyncpg.Connection[asyncpg.Record]]]:
    async with fresh_database(postgres_url) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(TABLE)
        yield url, connection
        await connection.close()


@pytest.fixture
async def rows(database: tuple[str, asyncpg.Connection[asyncpg.Record]]) -> AsyncIterator[Rows]:
    source = Rows(*database)
    await source.connection.execute(migration(source.url))
    yield source
    for feed in source.feeds:
        await feed.close()


@pytest.fixture
async def polled(database: tuple[str, asyncpg.Connection[asyncpg.Record]]) -> AsyncIterator[Rows]:
    source = PolledRows(*database)
    yield source
    for feed in source.feeds:
        await feed.close()


class TestOutboxFeed(ChangeFeedContract):
    @pytest.fixture
    def source(self, rows: Rows) -> Rows:
        assert isinstance(rows.feed(), OutboxFeed)
        return rows


class TestPollingFeed(ChangeFeedContract):
    @pytest.fixture
    def source(self, polled: Rows) -> Rows:
        assert isinstance(polled.feed(), PollingFeed)
        return polled


async def test_a_transaction_that_commits_late_is_not_missed_and_content_is_of_its_version(
    rows: Rows, database: tuple[str, asyncpg.Connection[asyncpg.Record]]
) -> None:
    reader = Reader(rows.feed(), {})
    await reader.drain()
    early = await asyncpg.connect(database[0])
    async with early.transaction():
        await early.execute(UPSERT, "early", "begun first")
        await rows.put("late", "committed first")
        assert [change.document_id for change in (await reader.drain()).changes] == ["late"]
    await early.close()
    batch = await reader.read()
    assert [change.text for change in batch.changes] == ["begun first"]
    await rows.put("early", "changed while that batch was under way")
    await reader.keep(batch)
    (change,) = (await reader.drain()).changes
    assert change.text == "changed while that batch was under way"
    assert (change.version or 0) > (batch.changes[0].version or 0)


async def test_many_changes_are_one_and_those_of_other_columns_none(rows: Rows) -> None:
    reader = Reader(rows.feed(), {})
    for n in range(10):
        await rows.put("a", f"text {n}")
    (change,) = (await reader.drain()).changes
    assert (change.text, change.metadata) == ("text 9", {"lang": "en"})
    await rows.connection.execute("""UPDATE "Papers" SET seen = seen + 1""")
    assert (await reader.drain()).changes == ()
    await rows.connection.execute("""UPDATE "Papers" SET id = 'b', tags = '["x"]'""")
    changes = (await reader.drain()).changes
    assert sorted((c.document_id, str(c.action)) for c in changes) == [("a", "delete"), ("b", "upsert")]
    assert [c.metadata for c in changes if c.document_id == "b"] == [{"lang": "en", "tags": '["x"]'}]
    await rows.connection.execute("""TRUNCATE "Papers" """)
    assert [(c.document_id, str(c.action)) for c in (await reader.drain()).changes] == [("b", "delete")]


async def test_the_migration_can_run_again_and_an_outbox_that_is_new_tells_everything(rows: Rows) -> None:
    await rows.put("a", "text")
    kept: dict[str, Json] = {}
    before = (await Reader(rows.feed(), kept).drain()).changes
    await rows.put("b", "text")
    await rows.connection.execute(migration(rows.url))
    reader = Reader(rows.feed(), kept)
    assert [change.document_id for change in (await reader.drain()).changes] == ["b"]
    assert reader.notes == []
    await rows.connection.execute('DROP TABLE "perdure_Papers"')
    await rows.connection.execute(migration(rows.url))
    again = (await reader.drain()).changes
    assert [change.document_id for change in again] == ["a", "b"]
    assert (again[0].version or 0) > (before[0].version or 0)
    assert ["made anew" in note for note in reader.notes] == [True]


async def test_a_notice_wakes_a_feed_that_waits(rows: Rows) -> None:
    rows.url += "&notify"
    await rows.connection.execute(migration(rows.url))
    feed = rows.feed()
    feed._patience = 60.0
    reader = Reader(feed, {})
    await reader.keep(await reader.read())
    waiting = asyncio.create_task(reader.read())
    idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'perdure feed' AND query LIKE '%LATERAL%' AND state = 'idle'"
    async with asyncio.timeout(30):
        while not await rows.connection.fetchval(idle):
            await asyncio.sleep(0.01)
        await rows.put("a", "text")
        assert [change.document_id for change in (await waiting).changes] == ["a"]


async def test_a_user_without_rights_on_the_outbox_writes_the_table(rows: Rows) -> None:
    await rows.connection.execute(
        'DROP ROLE IF EXISTS perdure_writer; CREATE ROLE perdure_writer; GRANT ALL ON "Papers" TO perdure_writer; SET ROLE perdure_writer'
    )
    await rows.put("a", "text")
    await rows.connection.execute(
        'RESET ROLE; REVOKE ALL ON "Papers" FROM perdure_writer; DROP ROLE perdure_writer'
    )
    assert [change.document_id for change in (await Reader(rows.feed(), {}).drain()).changes] == ["a"]


async def test_without_the_migration_or_a_server_it_says_what_to_do(polled: Rows) -> None:
    polled.url = polled.url.partition("&updated_at")[0]
    with pytest.raises(StoreUnavailable, match="perdure feed sql URL"):
        await Reader(polled.feed(), {}).read()
    polled.url = f"postgresql://127.0.0.1:1/d?{COLUMNS}"
    with pytest.raises(StoreUnavailable, match="Papers"):
        await Reader(polled.feed(), {}).read()


async def test_a_server_that_dropped_the_connection_is_asked_again(rows: Rows) -> None:
    kept: dict[str, Json] = {}
    reader = Reader(rows.feed(), kept)
    await reader.drain()
    await rows.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await rows.put("a", "text")
    try:
        told = await reader.drain()
    except StoreUnavailable:  # or the driver had noticed already
        told = await reader.drain()
    assert [change.document_id for change in told.changes] == ["a"]
    assert list(kept) == [POSITION]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://h/d", "names no table"),
        (f"postgresql://h/d?table={'x' * 60}", "by outbox=NAME"),
        ("postgresql://h/d?table=x&updated_at=u&lag=soon", "expected seconds"),
    ],
)
def test_a_url_that_names_no_table_is_refused(url: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        make_feed(url, tenant="default", namespace="default")
