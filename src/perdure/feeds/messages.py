"""Messages of Redis streams, RabbitMQ, NATS JetStream and Kafka, by FastStream; each message is one event as JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, NamedTuple
from uuid import uuid4

from faststream import AckPolicy, StreamMessage

from perdure.domain.change import Batch, Change, Poison
from perdure.domain.errors import StoreUnavailable
from perdure.domain.record import Json
from perdure.feeds.events import Whose, read_event
from perdure.ports.change_feed import Recall

POSITION: Final = "position"
PATIENCE: Final = 0.5
"""Seconds that an empty queue is waited for."""
AT_HAND: Final = 0.05
"""Seconds that another message of a batch is waited for."""
CONNECTING: Final = 10.0
SESSION: Final = 6000
"""Milliseconds after which Kafka gives a dead reader's partitions to the next: the least that a broker allows by default."""
UNDER_WAY: Final = 1000
"""Messages that RabbitMQ sends ahead of their acknowledgement."""
QUIET: Final[dict[str, Any]] = {"logger": logging.getLogger(__name__), "log_level": logging.DEBUG}


async def _each(messages: Sequence[Any]) -> None:
    for message in messages:
        await message.ack()


class Queue(NamedTuple):
    """What differs from one kind of broker to another.

    Attributes:
        make: gives broker and subscriber, from a position on where the feed keeps it.
        identity: of a message, by which it is told from others, and the version that its place gives a document.
        acknowledge: what is durable. keeps_position: the broker knows nothing of the reader, so nothing is acknowledged.
    """

    make: Callable[[Any], tuple[Any, Any]]
    identity: Callable[[Any], tuple[str, int | None]]
    acknowledge: Callable[[Sequence[Any]], Awaitable[None]] = _each
    keeps_position: bool = False


class MessageFeed:
    """One queue; a message is acknowledged when its job is durable, or when it is parked.

    Where events have no version, a batch holds one of each document: told again after a crash, perhaps cut elsewhere, an older one must
    not come after a newer one whose job is there already.
    """

    def __init__(self, name: str, queue: Queue, whose: Whose) -> None:
        self._name, self._queue, self._whose = name, queue, whose
        self._broker: Any = None
        self._subscriber: Any = None
        self._told: list[Any] = []
        self._held: Any = None
        """What the next batch begins with."""

    async def read(self, recall: Recall, limit: int) -> Batch:
        """What waits, after half a second at most."""
        position = (await recall([POSITION])).get(POSITION) if self._queue.keeps_position else None
        told: list[Change | Poison] = []
        versions: dict[tuple[str, str, str], int | None] = {}
        self._told = []
        async with self._translated():
            if self._broker is None:
                self._broker, self._subscriber = self._queue.make(position)
                async with asyncio.timeout(CONNECTING):
                    await self._broker.connect()
                await self._subscriber.start()
            until = time.monotonic() + 2 * PATIENCE
            while len(told) < limit and time.monotonic() < until:
                patience = AT_HAND if told else PATIENCE
                message, self._held = self._held or await self._subscriber.get_one(timeout=patience), None
                if message is None:
                    break
                identity, version = self._queue.identity(message)
                event = read_event(message.body, identity, self._whose, version)
                if isinstance(event, Change):
                    if event.document in versions and None in (event.version, versions[event.document]):
                        self._held = message
                        break
                    versions[event.document] = event.version
                self._told.append(message)
                told.append(event)
            if not told and not await self._broker.ping(CONNECTING):
                raise ConnectionError("the connection is lost")  # all but Redis tell of an empty queue then
        marks: dict[str, Json] = {}
        if told and self._queue.keeps_position:
            marks[POSITION] = self._queue.identity(self._told[-1])[0]
        return Batch.of(told, marks)

    async def settle(self, batch: Batch) -> None:
        """Acknowledge."""
        told, self._told = self._told, []
        if told and not self._queue.keeps_position:
            async with self._translated():
                await self._queue.acknowledge(told)

    async def close(self) -> None:
        """Give back what was not acknowledged, and disconnect."""
        told, self._told, self._held = [*self._told, *filter(None, [self._held])], [], None
        broker, self._broker = self._broker, None
        subscriber, self._subscriber = self._subscriber, None
        if broker is not None:
            with suppress(Exception):  # a broker that is away gives it back by itself
                for message in told:
                    await message.nack()
            # As tasks: Kafka's driver, whose broker is away, ends in a CancelledError, which would seem to be ours.
            await asyncio.gather(subscriber.stop(), return_exceptions=True)
            await asyncio.gather(broker.stop(), return_exceptions=True)

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- each of four drivers has errors of its own, without a common root
            await self.close()
            what = " ".join(str(error).split())[:300]
            raise StoreUnavailable(
                f"{self._name}: {type(error).__name__}: {what}; check it, and the feed's URL"
            ) from None


class _Consumer:
    """A subscriber that messages are sent to, for asking for one ends RabbitMQ's channel when none comes in time."""

    def __init__(self, subscriber: Any) -> None:
        self._subscriber = subscriber
        self._came: asyncio.Queue[Any] = asyncio.Queue()
        self._receiving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._subscriber.start()
        self._receiving = asyncio.create_task(self._receive())

    async def _receive(self) -> None:
        async for message in self._subscriber:
            self._came.put_nowait(message)

    async def get_one(self, *, timeout: float) -> Any:
        if self._receiving is not None and self._receiving.done() and self._came.empty():
            self._receiving.result()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._came.get()
        return None

    async def stop(self) -> None:
        if self._receiving is not None:
            self._receiving.cancel()
            await asyncio.gather(self._receiving, return_exceptions=True)
        await self._subscriber.stop()


def redis_stream(url: str, stream: str) -> Queue:
    """A stream of Redis or Valkey; the position is kept by the feed, so there is no group, and nothing to acknowledge."""
    from faststream.redis import RedisBroker, StreamSub

    async def lenient(raw: Any, original: Callable[[Any], Awaitable[Any]]) -> Any:
        try:
            return await original(raw)
        except Exception:  # noqa: BLE001 -- what FastStream can't read becomes poison here
            return StreamMessage(raw_message=raw, body=repr(raw["data"]).encode())

    def make(position: Any) -> tuple[Any, Any]:
        broker = RedisBroker(url, **QUIET, parser=lenient)
        return broker, broker.subscriber(stream=StreamSub(stream, last_id=position or "0"))

    return Queue(
        make, lambda message: (message.raw_message["message_ids"][0].decode(), None), keeps_position=True
    )


def rabbitmq_queue(url: str, queue: str) -> Queue:
    """A queue of RabbitMQ that is there already. RabbitMQ numbers no messages: one without an id that comes again is another job."""
    from faststream.rabbit import Channel, RabbitBroker, RabbitQueue

    def make(_: Any) -> tuple[Any, Any]:
        channel = Channel(prefetch_count=UNDER_WAY)
        broker = RabbitBroker(url, default_channel=channel, fail_fast=True, **QUIET)
        found = broker.subscriber(RabbitQueue(queue, declare=False), ack_policy=AckPolicy.MANUAL)
        return broker, _Consumer(found)

    def identity(message: Any) -> tuple[str, int | None]:
        return message.raw_message.message_id or uuid4().hex, None

    return Queue(make, identity)


def nats_stream(url: str, stream: str, subject: str, durable: str) -> Queue:
    """A stream of NATS JetStream. What is not acknowledged comes again, after what is newer: so the time of storing is the version."""
    from faststream.nats import JStream, NatsBroker, PullSub

    def make(_: Any) -> tuple[Any, Any]:
        broker = NatsBroker(url, **QUIET, allow_reconnect=False)
        return broker, broker.subscriber(
            subject,
            stream=JStream(stream, declare=False),
            durable=durable,
            pull_sub=PullSub(),
            ack_policy=AckPolicy.MANUAL,
        )

    def identity(message: Any) -> tuple[str, int | None]:
        meta = message.raw_message.metadata
        return str(meta.sequence.stream), int(meta.timestamp.timestamp() * 1_000_000)

    return Queue(make, identity)


def kafka_topic(servers: str, topic: str, group: str) -> Queue:
    """A topic of Kafka that is there already; the group's offsets are the position."""
    from aiokafka import TopicPartition
    from faststream.kafka import KafkaBroker, Topic

    def make(_: Any) -> tuple[Any, Any]:
        broker = KafkaBroker(servers.split(","), **QUIET)
        return broker, broker.subscriber(
            Topic(topic, declare=False),
            group_id=group,
            auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL,
            session_timeout_ms=SESSION,
            heartbeat_interval_ms=SESSION // 3,
        )

    async def commit(messages: Sequence[Any]) -> None:
        # An `ack` would commit what the consumer has handed out, which what is held back is part of.
        raws = [message.raw_message for message in messages]
        ends = {TopicPartition(raw.topic, raw.partition): raw.offset + 1 for raw in raws}
        await messages[-1].consumer.commit(ends)

    def identity(message: Any) -> tuple[str, int | None]:
        raw = message.raw_message
        return f"{raw.topic}-{raw.partition}-{raw.offset}", None

    return Queue(make, identity, commit)
