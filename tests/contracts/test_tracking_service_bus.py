"""The worker in `examples/` embeds by itself what Service Bus brings, and its records tell the story."""

from __future__ import annotations

import asyncio
import json
import runpy
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from azure.servicebus import ServiceBusMessage
from azure.servicebus.aio import ServiceBusClient

import perdure
from perdure.rest import create_app
from tests.servers.service_bus import ServiceBus

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "service_bus_worker.py"
QUEUE = "embedding-jobs"


async def records(store: str, tenant: str = "acme") -> list[dict[str, Any]]:
    """As the REST API lists them, oldest first."""
    async with perdure.open(store, embedder="hashing", worker=False) as app:
        transport = httpx.ASGITransport(app=create_app(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            answer = await client.get("/api/v1/embedding-jobs", params={"tenantId": tenant})
    return list(reversed(answer.json()["jobs"]))


async def until(store: str, *statuses: str, tenant: str = "acme") -> list[dict[str, Any]]:
    async with asyncio.timeout(120):
        while True:
            found = await records(store, tenant)
            if [one["status"] for one in found] == [*statuses]:
                return found
            await asyncio.sleep(0.1)


async def send(bus: ServiceBus, body: bytes) -> None:
    async with (
        ServiceBusClient.from_connection_string(bus.connection_string) as client,
        client.get_queue_sender(QUEUE) as sender,
    ):
        await sender.send_messages(ServiceBusMessage(body))


def shard(name: str, text: str) -> bytes:
    return json.dumps({"tenantId": "acme", "shardId": name, "shardTypeId": "notes", "text": text}).encode()


async def test_each_delivery_has_a_record_that_is_final_before_the_dead_letter(tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'records.db'}"
    bus = await ServiceBus().start()
    queue = bus.queue(QUEUE, most=2)
    example = runpy.run_path(str(EXAMPLE))
    go = asyncio.Event()

    async def embed(text: str) -> Any:
        await go.wait()
        if text == "poison":
            raise ValueError("the model refuses it")
        return await example["embed"](text)

    assert queue.dead is not None
    seen: list[list[dict[str, Any]]] = []
    bury = queue.dead.put

    def put(message: Any) -> None:
        with ThreadPoolExecutor(1) as thread:  # the worker does nothing meanwhile
            seen.append(thread.submit(asyncio.run, records(store)).result())
        bury(message)

    queue.dead.put = put  # type: ignore[method-assign]
    await send(bus, shard("a", "One.\n\nTwo."))
    working = asyncio.create_task(
        example["work"](bus.connection_string, QUEUE, store, embed=embed, deliveries=2)
    )
    try:
        (running,) = await until(store, "processing")
        go.set()
        (done,) = await until(store, "completed")
        await send(bus, shard("b", "poison"))
        await until(store, "completed", "failed", "failed")
        await send(bus, b"no JSON")
        await until(store, "failed", "failed", tenant="default")
        async with asyncio.timeout(120):
            while len(queue.dead.kept) < 2:
                await asyncio.sleep(0.05)
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await bus.stop()
    assert (running["id"], running["shardId"], running["shardTypeId"]) == (done["id"], "a", "notes")
    assert (done["metadata"]["vectorCount"], done["retryCount"]) == (2, 0)
    assert done["metadata"]["processingTimeMs"] >= 0
    assert not queue.kept
    told = [(one["shardId"], one["status"], one["retryCount"], one["error"]) for one in seen[0][1:]]
    assert told == [("b", "failed", number, "the model refuses it") for number in (0, 1)]
