"""The feed of a MongoDB collection keeps the contract on a real server; and what becomes of a lost position."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from pymongo import AsyncMongoClient

import perdure
from perdure.domain.change import Change
from perdure.domain.errors import StoreUnavailable
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.feeding import take
from perdure.feeds.mongodb import POSITION, MongoFeed
from perdure.testing.change_feed import ChangeFeedContract, Reader
from tests.servers.mongodb import fresh_database, mongodb_url

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("mongodb")]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with mongodb_url() as url:
        yield url


class Collection:
    def __init__(self, url: str, client: AsyncMongoClient[dict[str, Any]], database: str) -> None:
        self.url, self.database = url, database
        self.documents = client[database]["papers"]
        self.feeds: list[MongoFeed] = []

    async def put(self, document_id: str, text: str) -> None:
        await self.documents.replace_one({"_id": document_id}, {"body": text, "lang": "en"}, upsert=True)

    async def remove(self, document_id: str) -> None:
        await self.documents.delete_one({"_id": document_id})

    async def rot(self) -> None:
        await self.documents.insert_one({"_id": "rotten", "body": 5})

    async def text(self, change: Change) -> str:
        return change.text or ""

    def feed(self) -> MongoFeed:
        self.feeds.append(MongoFeed(self.url, self.database, "papers", text="body", metadata=("lang",)))
        return self.feeds[-1]


@pytest.fixture
async def source(server: str) -> AsyncIterator[Collection]:
    async with fresh_database(server) as name, AsyncMongoClient[dict[str, Any]](server) as client:
        source = Collection(server, client, name)
        yield source
        for feed in source.feeds:
            await feed.close()


class TestMongoFeed(ChangeFeedContract):
    pass


async def test_a_position_that_the_server_does_not_know_makes_it_scan_and_say_so(source: Collection) -> None:
    kept: dict[str, Json] = {}
    await source.put("a", "one")
    first = Reader(source.feed(), kept)
    told = await first.drain()
    assert told.changes[0].metadata == {"lang": "en"}
    kept[POSITION] = {"token": '{"_data": "8200"}'}
    await source.put("b", "two")
    reader = Reader(source.feed(), kept)
    told = await reader.drain()
    assert sorted(change.document_id for change in told.changes) == ["a", "b"]
    assert ["read anew" in note for note in reader.notes] == [True]


async def test_a_steady_trickle_is_told_before_it_fills_a_batch(source: Collection) -> None:
    reader = Reader(source.feed(), {})
    await reader.drain()

    async def trickle() -> None:
        for n in range(10_000):
            await source.put(f"{n}", "text")
            await asyncio.sleep(0.05)

    writing = asyncio.create_task(trickle())
    while not (told := (await reader.read()).changes):
        pass
    writing.cancel()
    await asyncio.gather(writing, return_exceptions=True)
    assert 0 < len(told) < 100


async def test_a_scan_goes_on_where_it_was(source: Collection) -> None:
    want = [f"{n:03}" for n in range(250)]
    for document_id in want:
        await source.put(document_id, "text")
    kept: dict[str, Json] = {}
    first = Reader(source.feed(), kept)
    batch = await first.read()
    await first.keep(batch)
    assert len(batch.changes) == 100
    told = (await Reader(source.feed(), kept).drain()).changes
    assert [change.document_id for change in (*batch.changes, *told)] == want


async def test_an_update_that_is_told_again_when_the_document_went_on_is_no_poison(
    source: Collection,
) -> None:
    """The server looks the content up when it tells: the same event may bring another text after a crash."""
    await source.put("a", "one")
    kept: dict[str, Json] = {}
    await Reader(source.feed(), kept).drain()
    await source.documents.update_one({"_id": "a"}, {"$set": {"body": "two"}})
    async with perdure.open("memory:", worker=False, embedder="hashing") as app:
        dying = Reader(source.feed(), kept)
        while not (told := (await dying.read()).changes):
            pass
        assert await take(app, told) == []
        await source.documents.update_one({"_id": "a"}, {"$set": {"body": "three"}})
        again = (await Reader(source.feed(), kept).drain()).changes
        assert [(change.version == told[0].version, change.text) for change in again] == [
            (True, "three"),
            (False, "three"),
        ]
        assert [await take(app, [change]) for change in again] == [[], []]
        jobs = (await app.jobs.page(JobFilter(tenant="default"), limit=10)).jobs
        assert sorted((str(job.state), job.payload["text"]) for job in jobs) == [
            ("cancelled", "two"),
            ("pending", "three"),
        ]


# The driver's monitor leaves its socket to the garbage collector when it is stopped while it connects.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_server_that_is_away_is_asked_again_later() -> None:
    feed = MongoFeed("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200", "d", "c")
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await Reader(feed, {}).read()
    await feed.close()
    gc.collect()
