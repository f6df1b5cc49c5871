"""The feeds of message brokers keep the contract on real servers, that of Kafka on a peer which speaks its wire format."""

from __future__ import annotations

import gc
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import aio_pika
import nats
import pytest
from aiokafka import AIOKafkaProducer
from redis.asyncio import Redis

from perdure.domain.change import Batch, Change
from perdure.domain.errors import StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.named import make_feed
from perdure.ports.change_feed import Recall
from perdure.testing.change_feed import ChangeFeedContract, Reader
from tests.servers.brokers import kafka_url, nats_url, rabbitmq_url
from tests.servers.redis import redis_url

pytestmark = [pytest.mark.server, pytest.mark.xdist_group("brokers")]
on_kafka = pytest.mark.xdist_group("kafka")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty queue is one that gave nothing three times."""
    monkeypatch.setattr("perdure.feeds.messages.PATIENCE", 0.3)
    monkeypatch.setattr("perdure.feeds.messages.CONNECTING", 3.0)


class Successor:
    """A feed that first ends those before it, as when another process takes over."""

    def __init__(self, feed: Any, before: list[Any]) -> None:
        self.feed, self.before = feed, before

    async def read(self, recall: Recall, limit: int) -> Batch:
        while self.before:
            await self.before.pop().close()
        return await self.feed.read(recall, limit)  # type: ignore[no-any-return]

    async def settle(self, batch: Batch) -> None:
        await self.feed.settle(batch)

    async def close(self) -> None:
        await self.feed.close()


class Messages:
    """A queue, and who writes to it."""

    def __init__(self, url: str, publish: Callable[[bytes, str], Awaitable[Any]]) -> None:
        self.url, self.publish = url, publish
        self.feeds: list[Any] = []

    async def put(self, document_id: str, text: str) -> None:
        await self.publish(json.dumps({"id": document_id, "text": text}).encode(), document_id)

    async def remove(self, document_id: str) -> None:
        await self.publish(json.dumps({"id": document_id, "action": "delete"}).encode(), document_id)

    async def rot(self) -> None:
        await self.publish(b"\xff no JSON", "rotten")

    async def text(self, change: Change) -> str:
        return change.text or ""

    def feed(self) -> Successor:
        feed = Successor(make_feed(self.url, tenant="default", namespace="default"), self.feeds)
        self.feeds = [feed]
        return feed

    async def close(self) -> None:
        for feed in self.feeds:
            await feed.close()


@pytest.fixture(scope="module")
def rabbitmq() -> Iterator[str]:
    with rabbitmq_url() as url:
        yield url


@pytest.fixture(scope="module")
def jetstream() -> Iterator[str]:
    with nats_url() as url:
        yield url


@pytest.fixture(scope="module")
def kafka() -> Iterator[str]:
    with kafka_url() as url:
        yield url


@asynccontextmanager
async def topic_of(kafka: str) -> AsyncIterator[Messages]:
    """A new topic; messages are keyed by document."""
    topic = f"docs-{uuid4().hex}"
    async with AIOKafkaProducer(bootstrap_servers=kafka.removeprefix("kafka://")) as producer:
        await producer.partitions_for(topic)
        source = Messages(
            f"{kafka}?topic={topic}&group={topic}",
            lambda body, document_id: producer.send_and_wait(topic, body, key=document_id.encode()),
        )
        yield source
        await source.close()


class TestRedisStream(ChangeFeedContract):
    @pytest.fixture
    async def source(self) -> AsyncIterator[Messages]:
        with redis_url() as url:
            client = Redis.from_url(url)
            source = Messages(f"{url}?stream=docs", lambda body, _: client.xadd("docs", {"data": body}))
            yield source
            await source.close()
            await client.aclose()


class TestRabbitMQ(ChangeFeedContract):
    @pytest.fixture
    async def source(self, rabbitmq: str) -> AsyncIterator[Messages]:
        async with await aio_pika.connect(rabbitmq) as connection:
            channel = await connection.channel()
            queue = await channel.declare_queue("docs", durable=True)

            async def publish(body: bytes, document_id: str) -> None:
                message = aio_pika.Message(body, message_id=uuid4().hex)
                await channel.default_exchange.publish(message, routing_key="docs")

            source = Messages(f"{rabbitmq}?queue=docs", publish)
            yield source
            await source.close()
            await queue.delete(if_empty=False, if_unused=False)


class TestNats(ChangeFeedContract):
    @pytest.fixture
    async def source(self, jetstream: str) -> AsyncIterator[Messages]:
        client = await nats.connect(jetstream)
        stream = client.jetstream()
        await stream.add_stream(name="DOCS", subjects=["docs.>"])
        source = Messages(
            f"{jetstream}?stream=DOCS&subject=docs.>", lambda body, _: stream.publish("docs.new", body)
        )
        yield source
        await source.close()
        await stream.delete_stream("DOCS")
        await client.close()


@on_kafka
class TestKafka(ChangeFeedContract):
    @pytest.fixture
    async def source(self, kafka: str) -> AsyncIterator[Messages]:
        async with topic_of(kafka) as source:
            yield source


@on_kafka
async def test_every_partition_of_a_batch_is_committed_and_nothing_that_was_held_back(kafka: str) -> None:
    async with topic_of(kafka) as source:
        for n in range(40):
            await source.put(f"d{n}", "one")
        await source.put("d7", "two")
        reader, told = Reader(source.feed(), {}), 0
        while told < 40:
            batch = await reader.read()
            await reader.keep(batch)
            told += len(batch.changes)
        # The next reader begins where the last one was killed, before it told of what it held.
        again = await Reader(source.feed(), {}).drain()
        assert [(change.document_id, change.text) for change in again.changes] == [("d7", "two")]


@on_kafka
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_broker_that_goes_away_is_no_empty_topic() -> None:
    with kafka_url() as kafka:
        feed = make_feed(f"{kafka}?topic=docs", tenant="default", namespace="default")
        assert (await Reader(feed, {}).drain()).changes == ()
    with pytest.raises(StoreUnavailable, match="check it"):
        await Reader(feed, {}).drain()
    gc.collect()


# FastStream's Kafka broker leaves its producer to the garbage collector when it can't connect.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1:1?stream=s",
        "amqp://127.0.0.1:1?queue=q",
        "nats://127.0.0.1:1?stream=S",
        "kafka://127.0.0.1:1?topic=t",
    ],
)
async def test_a_broker_that_is_away_is_asked_again_later(url: str) -> None:
    feed = make_feed(url, tenant="default", namespace="default")
    with pytest.raises(StoreUnavailable, match="check it"):
        await Reader(feed, {}).read()
    await feed.close()
    gc.collect()


async def test_a_queue_that_is_not_there_is_said(rabbitmq: str, jetstream: str) -> None:
    for url in (f"{rabbitmq}?queue=nowhere", f"{jetstream}?stream=NOWHERE&subject=nowhere"):
        feed = make_feed(url, tenant="default", namespace="default")
        with pytest.raises(StoreUnavailable, match=r"(?i)not.?found"):
            await Reader(feed, {}).read()
        await feed.close()


async def test_foreign_fields_of_a_redis_stream_are_an_event_or_poison() -> None:
    with redis_url() as url:
        client = Redis.from_url(url)
        await client.xadd("docs", {"id": "a", "text": "written by XADD docs * id a text …"})
        await client.xadd("docs", {b"\xff": b"\xff"})
        await client.xadd("docs", {"id": "b", "text": "after it"})
        feed = make_feed(f"{url}?stream=docs", tenant="default", namespace="default")
        kept: dict[str, Json] = {}
        told = await Reader(feed, kept).drain()
        assert [change.document_id for change in told.changes] == ["a", "b"]
        assert len(told.poison) == 1
        await feed.close()
        await client.aclose()
