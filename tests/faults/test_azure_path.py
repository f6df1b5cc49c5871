"""The commands on the page take items of Cosmos DB through Service Bus to vectors, though their processes are killed on the way."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from azure.cosmos import PartitionKey
from azure.cosmos.aio import ContainerProxy, CosmosClient
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

import perdure
from perdure.app import App
from perdure.databases.cosmos.address import parse
from perdure.feeding import feeds_of
from perdure.rest import create_app
from tests.servers.cosmos_peer import Peer, cosmos_peer
from tests.servers.service_bus import ServiceBus

pytestmark = [pytest.mark.fault, pytest.mark.server, pytest.mark.slow, pytest.mark.timeout(240)]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "from-cosmos-to-vectors.md"
JOBS = "/api/v1/embedding-jobs"


class Processes:
    """Those of the page."""

    def __init__(self, environment: dict[str, str]) -> None:
        (block,) = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
        self.commands = dict(zip(("bridge", "reader", "worker"), block.splitlines(), strict=True))
        self.environment = environment
        self.running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, name: str) -> None:
        null = asyncio.subprocess.DEVNULL
        lease = " --lease 2" * (name != "worker")
        command = self.commands[name].replace("perdure", f"exec {sys.executable} -m perdure", 1) + lease
        self.running[name] = await asyncio.create_subprocess_shell(
            command, env=self.environment, stdout=null, stderr=null
        )

    async def kill(self, name: str) -> None:
        process = self.running.pop(name)
        process.kill()
        await process.wait()

    async def end(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            await process.wait()


async def until(done: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(120):
        while not await done():
            await asyncio.sleep(0.1)


def item(number: int, text: str) -> dict[str, object]:
    return {"id": f"shard-{number}", "tenantId": "acme", "body": text, "kind": "note"}


async def container_of(client: CosmosClient, peer: Peer) -> ContainerProxy:
    peer.ranges = 2
    database = await client.create_database("content")
    container = await database.create_container("shards", PartitionKey("/tenantId"))
    await container.read()
    return container


async def send_poison(bus: ServiceBus) -> None:
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender("embedding-jobs") as sender,
    ):
        await sender.send_messages(ServiceBusMessage(b"no event", session_id="poison"))


async def test_items_become_vectors_though_all_is_killed_on_the_way(tmp_path: Path) -> None:
    bus = await ServiceBus().start()
    queue = bus.queue("embedding-jobs", sessions=True)
    store = f"sqlite:///{tmp_path / 'jobs.db'}"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PERDURE_")}
    with cosmos_peer() as peer:
        processes = Processes(
            clean
            | {
                "PERDURE_STORE": store,
                "PERDURE_EMBEDDER": "hashing",
                "PERDURE_LEASE_SECONDS": "2",
                "SHARDS": f"{peer.url}/content/shards?text=body&tenant=tenantId&deleted=isDeleted&metadata=kind",
                "QUEUE": f"servicebus://k:c2VjcmV0@127.0.0.1:{bus.port}/embedding-jobs?sessions=yes&tenants=acme&emulator=yes",
            }
        )
        address = parse(peer.url)
        try:
            async with (
                perdure.open(store, embedder="hashing", worker=False) as app,
                CosmosClient(address.endpoint, address.key, enable_endpoint_discovery=False) as cosmos,
            ):
                container = await container_of(cosmos, peer)
                await walk(app, container, processes, bus)
                assert queue.dead is not None
                assert [str(one.session) for one in queue.dead.kept] == ["poison"]
                await look(app)
        finally:
            await processes.end()
            await bus.stop()


async def walk(app: App, container: ContainerProxy, processes: Processes, bus: ServiceBus) -> None:
    """Write items while the worker is killed twice, and the two others once each."""
    for name in processes.commands:
        await processes.start(name)
    for number in range(6):
        await container.upsert_item(item(number, f"Text {number}."))
    await send_poison(bus)

    async def some() -> bool:
        return (await app.jobs.stats("acme")).total > 0

    await until(some)
    for victims in (("worker", "reader"), ("worker", "bridge")):
        for name in victims:
            await processes.kill(name)
        await container.upsert_item(item(0, f"Text 0 after the death of the {victims[1]}."))
        for name in victims:
            await processes.start(name)
    await container.upsert_item(item(6, "Text 6."))
    await container.upsert_item(item(1, "") | {"isDeleted": True})

    async def found() -> bool:
        hits = await app.search("text", tenant="acme", namespace="shards", limit=50)
        parked = await feeds_of(app).parked("jobs", 10)
        return bool(parked) and sorted(hit.chunk_text for hit in hits) == [
            "Text 0 after the death of the bridge.",
            *(f"Text {number}." for number in range(2, 7)),
        ]

    await until(found)


async def look(app: App) -> None:
    """The records tell of it as those of the embedding service did."""
    transport = httpx.ASGITransport(app=create_app(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:

        async def done() -> bool:
            stats = (await client.get(f"{JOBS}/stats", params={"tenantId": "acme"})).json()["stats"]
            return bool(stats["pending"] == stats["processing"] == 0)

        await until(done)
        stats = (await client.get(f"{JOBS}/stats", params={"tenantId": "acme"})).json()["stats"]
        answer = await client.get(JOBS, params={"tenantId": "acme", "status": "completed"})
    jobs = answer.json()["jobs"]
    assert {job["shardId"] for job in jobs} >= {f"shard-{number}" for number in (0, *range(2, 7))}
    assert stats["completed"] == len(jobs) <= 9
    assert {job["shardTypeId"] for job in jobs} == {"shards"}
    assert {job["metadata"]["vectorCount"] for job in jobs} == {1}
    assert all(job["metadata"]["processingTimeMs"] >= 0 for job in jobs)
