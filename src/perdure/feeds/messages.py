"""Messages of Redis streams, RabbitMQ, NATS JetStream and Kafka, by FastStream; each message is one event as JSON."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
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
UNDER_WAY: Final = 1000
"""Messages that RabbitMQ sends ahead of their acknowledgement."""
QUIET: Final[dict[str, Any]] = {"logger": logging.getLogger(__name__), "log_level": logging.DEBUG}


class Queue(NamedTuple):
    """What differs from one kind of broker to another.

    Attributes:
        make: gives broker and subscriber, from a position on where the feed keeps it.
        identity: of a message, by which it is told from others, and the version that its place gives a document.
        keeps_position: the broker knows nothing of the reader. each: every message is acknowledged; else the last one does for all.
    """

    make: Callable[[Any], tuple[Any, Any]]
    identity: Callable[[Any], tuple[str, int | None]]
    keeps_position: bool = False
    each: bool = True


class MessageFeed:
    """One queue; a message is acknowledged when its job is durable, or when it is parked."""

    def __init__(self, name: str, queue: Queue, whose: Whose) -> None:
        self._name, self._queue, self._whose = name, queue, whose
        self._broker: Any = None
        self._subscriber: Any = None
        self._told: list[Any] = []

    async def read(self, recall: Recall, limit: int) -> Batch:
        """What waits, after half a second at most."""
        position = (await recall([POSITION])).get(POSITION) if self._queue.keeps_position else None
        told: list[Change | Poison] = []
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
                message = await self._subscriber.get_one(timeout=patience)
                if message is None:
                    break
                self._told.append(message)
                identity, version = self._queue.identity(message)
                told.append(read_event(message.body, identity, self._whose, version))
            if not told and self._queue.each and not await self._broker.ping(CONNECTING):
                raise ConnectionError(
                    "the connection is lost"
                )  # NATS and RabbitMQ tell of an empty queue then
        marks: dict[str, Json] = {}
        if told and self._queue.keeps_position:
            marks[POSITION] = self._queue.identity(self._told[-1])[0]
        return Batch.of(told, marks)

    async def settle(self, batch: Batch) -> None:
        """Acknowledge."""
        told, self._told = self._told, []
        if not self._queue.keeps_position:
            async with self._translated():
                for message in told if self._queue.each else told[-1:]:
                    await message.ack()

    async def close(self) -> None:
        """Give back what was not acknowledged, and disconnect."""
        told, self._told = self._told, []
        broker, self._broker = self._broker, None
        subscriber, self._subscriber = self._subscriber, None
        if broker is not None:
            with suppress(Exception):  # a broker that is away gives it back by itself
                for message in told if self._queue.each else ():
                    await message.nack()
            with suppress(Exception):
                await subscriber.stop()
            with suppress(Exception):
                await broker.stop()

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
    """A topic of Kafka; the group's offsets are the position."""
    from faststream.kafka import KafkaBroker

    def make(_: Any) -> tuple[Any, Any]:
        broker = KafkaBroker(servers.split(","), **QUIET)
        return broker, broker.subscriber(
            topic, group_id=group, auto_offset_reset="earliest", ack_policy=AckPolicy.MANUAL
        )

    def identity(message: Any) -> tuple[str, int | None]:
        raw = message.raw_message
        return f"{raw.topic}-{raw.partition}-{raw.offset}", None

    return Queue(make, identity, each=False)
