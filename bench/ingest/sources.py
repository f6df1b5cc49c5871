"""The sources that the benchmark of feeds changes, each empty, on a server (or the tests' peer of one) of its own."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from zlib import crc32

import aio_pika
import asyncpg
import nats
from aiokafka import AIOKafkaProducer
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient
from pymongo import AsyncMongoClient
from redis.asyncio import Redis

from perdure.databases.cosmos.address import parse
from perdure.feeding import migration
from tests.servers.brokers import kafka_url, nats_url, rabbitmq_url
from tests.servers.cosmos_peer import cosmos_peer
from tests.servers.mongodb import mongodb_url
from tests.servers.postgres import postgres_server
from tests.servers.redis import redis_url
from tests.servers.service_bus import ServiceBus

LOCK = 5.0
"""Seconds that a message of Service Bus belongs to its reader: the least that the service takes."""


class Source(Protocol):
    """What is followed."""

    url: str

    async def put(self, document_id: str, text: str) -> None: ...

    async def remove(self, document_id: str) -> None: ...


class Files:
    """A folder; files appear whole, by a rename."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.url = folder, f"folder:{folder}?settled=0"

    async def put(self, document_id: str, text: str) -> None:
        part = self.folder / f"{document_id}.part"
        part.write_text(text)
        part.rename(self.folder / document_id)

    async def remove(self, document_id: str) -> None:
        (self.folder / document_id).unlink(missing_ok=True)


class Rows:
    """A table of PostgreSQL."""

    def __init__(self, url: str, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.url, self.pool = url, pool

    async def put(self, document_id: str, text: str) -> None:
        upsert = "INSERT INTO papers VALUES ($1, $2) ON CONFLICT (id) DO UPDATE SET text = excluded.text"
        await self.pool.execute(upsert, document_id, text)

    async def remove(self, document_id: str) -> None:
        await self.pool.execute("DELETE FROM papers WHERE id = $1", document_id)


class Collection:
    """A collection of MongoDB."""

    def __init__(self, url: str, documents: Any) -> None:
        self.url, self.documents = url, documents

    async def put(self, document_id: str, text: str) -> None:
        await self.documents.replace_one({"_id": document_id}, {"text": text}, upsert=True)

    async def remove(self, document_id: str) -> None:
        await self.documents.delete_one({"_id": document_id})


class Messages:
    """A queue, to which whoever changes a document says so; where it keeps their order, without a version."""

    def __init__(
        self, url: str, publish: Callable[[bytes, str], Awaitable[Any]], *, ordered: bool = False
    ) -> None:
        self.url, self.publish, self.ordered, self.version = url, publish, ordered, 0

    async def put(self, document_id: str, text: str) -> None:
        await self._say(document_id, text=text)

    async def remove(self, document_id: str) -> None:
        await self._say(document_id, action="delete")

    async def _say(self, document_id: str, **event: str) -> None:
        self.version += 1
        version = {} if self.ordered else {"version": self.version}
        await self.publish(json.dumps({"id": document_id, **event, **version}).encode(), document_id)


class Items:
    """A container of Cosmos DB, whose items are marked when they are deleted."""

    def __init__(self, url: str, container: ContainerProxy) -> None:
        self.url, self.container = url, container

    async def put(self, document_id: str, text: str) -> None:
        await self.container.upsert_item({**self._key(document_id), "text": text})

    async def remove(self, document_id: str) -> None:
        await self.container.upsert_item({**self._key(document_id), "isDeleted": True})

    def _key(self, document_id: str) -> dict[str, str]:
        return {"id": document_id, "tenantId": f"part-{crc32(document_id.encode()) % 16}"}


@asynccontextmanager
async def folder(folder: Path) -> AsyncIterator[Source]:
    (folder / "inbox").mkdir()
    yield Files(folder / "inbox")


@asynccontextmanager
async def postgres(folder: Path) -> AsyncIterator[Source]:
    with postgres_server() as server:
        url = f"{server.url}?table=papers"
        async with asyncpg.create_pool(server.url, min_size=1, max_size=4) as pool:
            await pool.execute("CREATE TABLE papers (id text PRIMARY KEY, text text)")
            await pool.execute(migration(url))
            yield Rows(url, pool)


@asynccontextmanager
async def mongodb(folder: Path) -> AsyncIterator[Source]:
    with mongodb_url() as server_url:
        async with AsyncMongoClient[dict[str, Any]](server_url) as client:
            await client["bench"].create_collection("papers")
            yield Collection(f"{server_url}bench.papers", client["bench"]["papers"])


@asynccontextmanager
async def redis(folder: Path) -> AsyncIterator[Source]:
    with redis_url() as url:
        async with Redis.from_url(url) as client:
            stream = f"{url}?stream=docs"
            yield Messages(stream, lambda body, _: client.xadd("docs", {"data": body}), ordered=True)


@asynccontextmanager
async def kafka(folder: Path) -> AsyncIterator[Source]:
    with kafka_url() as url:
        async with AIOKafkaProducer(bootstrap_servers=url.removeprefix("kafka://")) as producer:

            async def publish(body: bytes, document_id: str) -> None:
                await producer.send_and_wait("docs", body, key=document_id.encode())

            yield Messages(f"{url}?topic=docs", publish, ordered=True)


@asynccontextmanager
async def nats_stream(folder: Path) -> AsyncIterator[Source]:
    with nats_url() as url:
        async with await nats.connect(url) as client:
            stream = client.jetstream()
            await stream.add_stream(name="DOCS", subjects=["docs.>"])
            yield Messages(
                f"{url}?stream=DOCS&subject=docs.>", lambda body, _: stream.publish("docs.new", body)
            )


@asynccontextmanager
async def rabbitmq(folder: Path) -> AsyncIterator[Source]:
    with rabbitmq_url() as url:
        async with await aio_pika.connect(url) as connection:
            channel = await connection.channel()
            await channel.declare_queue("docs", durable=True)

            async def publish(body: bytes, document_id: str) -> None:
                await channel.default_exchange.publish(aio_pika.Message(body), routing_key="docs")

            yield Messages(f"{url}?queue=docs", publish)


@asynccontextmanager
async def service_bus(folder: Path, *, sessions: bool = False) -> AsyncIterator[Source]:
    bus = await ServiceBus().start()
    bus.queue("docs", sessions=sessions, lock=LOCK)
    try:
        async with (
            ServiceBusClient.from_connection_string(bus.connection_string) as client,
            client.get_queue_sender("docs") as sender,
        ):

            async def publish(body: bytes, document_id: str) -> None:
                await sender.send_messages(ServiceBusMessage(body, session_id=document_id))

            url = f"servicebus://k:c2VjcmV0@127.0.0.1:{bus.port}/docs?emulator=yes"
            yield Messages(url + "&sessions=yes" * sessions, publish)
    finally:
        await bus.stop()


@asynccontextmanager
async def cosmos(folder: Path) -> AsyncIterator[Source]:
    with cosmos_peer() as peer:
        peer.ranges = 4
        address = parse(peer.url)
        async with CosmosClient(address.endpoint, address.key, enable_endpoint_discovery=False) as client:
            database = await client.create_database("bench")
            container = await database.create_container("papers", PartitionKey("/tenantId"))
            await container.read()  # the driver learns how items are partitioned
            yield Items(f"{peer.url}/bench/papers?deleted=isDeleted", container)


SOURCES: dict[str, Callable[[Path], AbstractAsyncContextManager[Source]]] = {
    "folder": folder,
    "postgres": postgres,
    "mongodb": mongodb,
    "redis": redis,
    "rabbitmq": rabbitmq,
    "nats": nats_stream,
    "kafka": kafka,
    "service-bus": service_bus,
    "service-bus-sessions": partial(service_bus, sessions=True),
    "cosmos": cosmos,
}
"""Each opens an empty source; the path is an empty folder that it may use."""
COMES_AGAIN = frozenset({"nats", "service-bus"})
"""What a dead reader had from these comes again only when its time is over."""
