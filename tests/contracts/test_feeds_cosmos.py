"""The feed of a Cosmos DB container keeps the contract, over several partitions; and what becomes of a lost position.

On the peer: the packaged emulator has no change feed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient

from perdure.databases.cosmos.address import parse
from perdure.domain.change import Action, Change
from perdure.domain.errors import StoreError, StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.cosmos import POSITION, CosmosFeed
from perdure.feeds.named import make_feed
from perdure.testing.change_feed import ChangeFeedContract, Reader
from tests.servers.cosmos_peer import Peer, cosmos_peer

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("cosmos")]
PLACE = "database/papers"


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    with cosmos_peer() as peer:
        peer.ranges = 3
        yield peer


class Items:
    """Items of several tenants, by the first letters of their ids."""

    def __init__(self, peer: Peer, container: ContainerProxy) -> None:
        self.peer, self.container = peer, container
        self.feeds: list[CosmosFeed] = []

    async def put(self, document_id: str, text: str) -> None:
        item = {"id": document_id, "tenantId": document_id[:1], "body": text, "lang": "en"}
        await self.container.upsert_item(item)

    async def remove(self, document_id: str) -> None:
        await self.container.upsert_item({"id": document_id, "tenantId": document_id[:1], "isDeleted": True})

    async def rot(self) -> None:
        await self.container.upsert_item({"id": "rotten", "tenantId": "r", "body": 5})

    async def text(self, change: Change) -> str:
        return change.text or ""

    def feed(self, options: str = "") -> CosmosFeed:
        url = f"{self.peer.url}/{PLACE}?text=body&metadata=lang&deleted=isDeleted{options}"
        feed = make_feed(url, tenant="default", namespace="default")
        assert isinstance(feed, CosmosFeed)
        self.feeds.append(feed)
        return feed


@pytest.fixture
async def source(peer: Peer) -> AsyncIterator[Items]:
    address = parse(f"{peer.url}/{PLACE}")
    peer.databases.clear()
    async with CosmosClient(address.endpoint, address.key, enable_endpoint_discovery=False) as client:
        database = await client.create_database(address.database)
        container = await database.create_container(address.container, PartitionKey("/tenantId"))
        await container.read()  # the driver learns how items are partitioned
        source = Items(peer, container)
        yield source
        for feed in source.feeds:
            await feed.close()


class TestCosmosFeed(ChangeFeedContract):
    pass


async def test_every_partition_is_read_and_its_place_kept(source: Items, peer: Peer) -> None:
    ids = [f"{letter}{number}" for letter in "abcdefgh" for number in range(40)]
    for document_id in ids:
        await source.put(document_id, "text")
    kept: dict[str, Json] = {}
    first = Reader(source.feed("&tenant=tenantId"), kept)
    batch = await first.read()
    await first.keep(batch)
    told = (await Reader(source.feed("&tenant=tenantId"), kept).drain()).changes
    seen = [(change.tenant, change.document_id) for change in (*batch.changes, *told)]
    assert sorted(seen) == [(document_id[0], document_id) for document_id in sorted(ids)]
    await source.put("a1", "new")
    [change] = (await Reader(source.feed("&tenant=tenantId"), kept).drain()).changes
    assert (change.document_id, change.text, change.metadata) == ("a1", "new", {"lang": "en"})


async def test_of_two_changes_within_a_second_the_later_has_the_greater_version(source: Items) -> None:
    kept: dict[str, Json] = {}
    versions = []
    for text in ("one", "two"):
        await source.put("a", text)
        [change] = (await Reader(source.feed(), kept).drain()).changes
        versions.append(change.version or 0)
    assert versions[0] < versions[1] < 2**53


async def test_a_position_of_another_container_makes_it_read_all_and_say_so(source: Items) -> None:
    kept: dict[str, Json] = {POSITION: [{"range": {}, "at": "e30="}]}
    await source.put("a", "one")
    reader = Reader(source.feed(), kept)
    told = await reader.drain()
    assert [(change.action, change.document_id) for change in told.changes] == [(Action.UPSERT, "a")]
    assert ["read anew" in note for note in reader.notes] == [True]


async def test_what_names_no_tenant_is_parked(source: Items) -> None:
    await source.put("a", "one")
    told = await Reader(source.feed("&tenant=owner"), {}).drain()
    assert told.changes == ()
    assert "'owner'" in told.poison[0].reason


async def test_a_service_that_is_away_is_asked_again_later_and_a_missing_container_is_told(
    peer: Peer,
) -> None:
    away = CosmosFeed(parse("cosmos+http://:c2VjcmV0@127.0.0.1:1/d/c"))
    missing = CosmosFeed(parse(f"{peer.url}/none/none"))
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await Reader(away, {}).read()
    with pytest.raises(StoreError, match="see that the container is there"):
        await Reader(missing, {}).read()
    await away.close()
    await missing.close()
