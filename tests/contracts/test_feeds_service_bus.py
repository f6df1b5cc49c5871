"""A queue of Azure Service Bus keeps the contract of feeds, by the official SDK on a peer that speaks its AMQP."""

from __future__ import annotations

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

from perdure.domain.change import Action, Batch, Change
from perdure.domain.errors import InvalidInput, StoreUnavailable
from perdure.feeds import service_bus
from perdure.feeds.events import Whose, read_event
from perdure.feeds.named import make_bridge, make_feed
from perdure.feeds.service_bus import ServiceBusFeed
from perdure.testing.change_feed import ChangeFeedContract, Reader
from tests.servers.service_bus import ServiceBus

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("service-bus")]


class Messages:
    """A queue, and who sends to it."""

    def __init__(self, bus: ServiceBus, *, sessions: bool, lock: float = 30.0, most: int = 10) -> None:
        self.bus = bus
        self.queue = bus.queue("docs", sessions=sessions, lock=lock, most=most)
        self.feeds: list[ServiceBusFeed] = []
        self.client = ServiceBusClient.from_connection_string(bus.connection_string)
        self.sender = self.client.get_queue_sender("docs")

    async def send(self, body: bytes, session: str = "rest", **options: Any) -> None:
        await self.sender.send_messages(
            ServiceBusMessage(body, session_id=session if self.queue.sessions else None, **options)
        )

    async def put(self, document_id: str, text: str) -> None:
        await self.send(json.dumps({"id": document_id, "text": text}).encode(), document_id)

    async def remove(self, document_id: str) -> None:
        await self.send(json.dumps({"id": document_id, "action": "delete"}).encode(), document_id)

    async def rot(self) -> None:
        await self.send(b"\xff no JSON")

    async def text(self, change: Change) -> str:
        return change.text or ""

    def feed(self, more: str = "") -> ServiceBusFeed:
        """Of another process; the one before died, and its locks are over."""
        self.bus.cut()
        self.queue.expire()
        sessions = "&sessions=yes" * self.queue.sessions
        url = f"servicebus://k:c2VjcmV0@127.0.0.1:{self.bus.port}/docs?emulator=yes{sessions}{more}"
        feed = make_feed(url, tenant="default", namespace="default")
        assert isinstance(feed, ServiceBusFeed)
        self.feeds.append(feed)
        return feed

    async def close(self) -> None:
        for feed in self.feeds:
            await feed.close()
        await self.sender.close()
        await self.client.close()


async def opened(**options: Any) -> AsyncIterator[Messages]:
    bus = await ServiceBus().start()
    messages = Messages(bus, **options)
    yield messages
    await messages.close()
    await bus.stop()


@pytest.fixture(autouse=True)
def impatience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_bus, "PATIENCE", 0.1)
    monkeypatch.setattr(service_bus, "SESSIONS", 2)


class TestServiceBus(ChangeFeedContract):
    @pytest.fixture
    async def source(self) -> AsyncIterator[Messages]:
        async for messages in opened(sessions=False):
            yield messages


async def test_of_a_session_the_changes_come_in_order_and_to_one_reader() -> None:
    async for source in opened(sessions=True):
        for text in ("one", "two"):
            for document_id in ("a", "b"):
                await source.put(document_id, text)
        reader, other = Reader(source.feed(), {}), Reader(source.feed(), {})
        first = await told(reader)
        assert sorted((c.document_id, c.text) for c in first.changes) == [
            (name, text) for name in ("a", "b") for text in ("one", "two")
        ]
        assert not (await other.read()).changes
        await reader.keep(first)
        assert not source.queue.kept
        await source.remove("a")
        assert [str(change.action) for change in (await told(other)).changes] == ["delete"]


def test_the_message_on_the_page_is_an_event() -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "follow-a-service-bus-queue.md"
    (message,) = re.findall(r"^```json\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    change = read_event(message.encode(), "m", Whose("default", "shards", ("acme",)))
    assert isinstance(change, Change)
    assert (change.document_id, change.version, change.tenant) == ("leave.md", 7, "acme")


@pytest.fixture
async def plain() -> AsyncIterator[Messages]:
    async for messages in opened(sessions=False, lock=3.0, most=2):
        yield messages


async def told(reader: Reader) -> Batch:
    async with asyncio.timeout(20):
        while True:
            batch = await reader.read()
            if batch.changes or batch.poison:
                return batch


async def test_a_lock_is_renewed_while_the_job_is_added(plain: Messages) -> None:
    await plain.put("a", "one")
    reader = Reader(plain.feed(), {})
    batch = await told(reader)
    async with asyncio.timeout(20):
        while not plain.queue.renewed:
            await asyncio.sleep(0.05)
    await reader.keep(batch)
    assert not plain.queue.kept
    assert not plain.queue.dead.kept  # type: ignore[union-attr]


async def test_a_lock_that_is_lost_half_way_brings_the_message_again_unchanged(plain: Messages) -> None:
    await plain.put("a", "one")
    reader = Reader(plain.feed(), {})
    first = await told(reader)
    plain.queue.expire()
    await reader.keep(first)
    again = await told(reader)
    assert again.changes == first.changes
    await reader.keep(again)
    assert not plain.queue.kept


async def test_what_is_given_back_comes_at_once_and_too_often_is_parked(plain: Messages) -> None:
    await plain.put("a", "one")
    reader = Reader(plain.feed(), {})
    for _ in range(2):
        assert (await told(reader)).changes
        await reader.feed.close()
    batch = await told(reader)
    assert not batch.changes
    (poison,) = batch.poison
    assert poison.change is not None
    assert poison.change.document_id == "a"
    assert "MaxDeliveryCountExceeded" in poison.reason
    await reader.keep(batch)
    await reader.feed.close()
    assert not (await reader.drain()).poison


async def test_what_is_no_event_is_a_dead_letter_with_its_reason(plain: Messages) -> None:
    await plain.rot()
    await plain.send(b"[" * 900_000, message_id="large")
    await plain.send(b'{"id": "b", "text": "x", "tenant": "other"}')
    reader = Reader(plain.feed(), {})
    batch = await told(reader)
    assert len(batch.poison) == 3
    assert "tenants=" in batch.poison[2].reason
    await reader.keep(batch)
    assert plain.queue.dead is not None
    reasons = [
        (one.message.application_properties or {})[b"DeadLetterErrorDescription"]
        for one in plain.queue.dead.kept
    ]
    assert len(reasons) == 2
    assert all("is no event" in str(reason) for reason in reasons)
    await reader.feed.close()
    assert not (await reader.drain()).poison


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK leaves sockets that broke
async def test_a_server_that_is_away_is_told_and_found_again(plain: Messages) -> None:
    reader = Reader(plain.feed(), {})
    await reader.read()
    port = plain.bus.port
    await plain.bus.stop()
    with pytest.raises(StoreUnavailable, match="out of reach"):
        await told(reader)
    await plain.bus.start(port)
    await plain.put("a", "one")
    assert [change.document_id for change in (await told(reader)).changes] == ["a"]
    await plain.close()
    gc.collect()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the SDK leaves sockets that broke
async def test_a_bridge_sends_what_a_feed_reads_and_parks_what_no_message_holds(plain: Messages) -> None:
    bridge = make_bridge(f"servicebus://k:c2VjcmV0@127.0.0.1:{plain.bus.port}/docs?emulator=yes")
    change = Change(action=Action.UPSERT, document_id="a", version=7, text="one", metadata={"kind": "note"})
    gone = Change(action=Action.DELETE, document_id="b", version=8)
    large = Change(action=Action.UPSERT, document_id="c", version=9, text="x" * 2_000_000)
    file = Change(action=Action.UPSERT, document_id="d", path="/a/file")
    poison = await bridge.take([change, large, file, gone])
    assert [(one.change and one.change.document_id, bool(one.reason)) for one in poison] == [
        ("c", True),
        ("d", True),
    ]
    assert await bridge.take([change]) == []
    assert len({one.message.properties.message_id for one in plain.queue.kept if one.message.properties}) == 2
    batch = await told(Reader(plain.feed(), {}))
    assert batch.changes == (change, gone, change)
    plain.bus.refuse_sends = True
    with pytest.raises(StoreUnavailable, match="takes nothing"):
        await bridge.take([change])
    gc.collect()


def test_a_url_that_lacks_something_says_what_is_expected() -> None:
    for url in ("servicebus://host/docs", "servicebus://k:s@host", "servicebus://k:s@host/docs?session=1"):
        with pytest.raises(InvalidInput, match="servicebus://KEYNAME:KEY@"):
            make_feed(url, tenant="default", namespace="default")
    with pytest.raises(InvalidInput, match="a bridge leads to servicebus"):
        make_bridge("folder:/x")
