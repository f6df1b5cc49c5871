"""A worker of your own that embeds what a queue of Azure Service Bus brings; Perdure keeps a record of each delivery.

    SERVICE_BUS='Endpoint=sb://…' QUEUE=embedding-jobs PERDURE_STORE=postgresql://… python examples/service_bus_worker.py

A message is JSON with `tenantId`, `shardId`, `shardTypeId` and `text`. `embed` stands for your own model. The records are listed and counted
by `GET /api/v1/embedding-jobs` of `perdure serve`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from azure.servicebus import ServiceBusReceivedMessage
from azure.servicebus.aio import AutoLockRenewer, ServiceBusClient, ServiceBusReceiver
from azure.servicebus.exceptions import MessageLockLostError

import perdure
from perdure.tracking import Tracker

MODEL = "my-model"
Embed = Callable[[str], Awaitable[Sequence[Sequence[float]]]]


async def embed(text: str) -> list[list[float]]:
    """Vectors of a text, one for each paragraph."""
    return [[byte / 255 for byte in hashlib.sha256(part.encode()).digest()] for part in text.split("\n\n")]


def read(message: ServiceBusReceivedMessage) -> dict[str, Any]:
    """What it says; nothing, if it is no JSON object."""
    with suppress(ValueError):
        said = json.loads(str(message))
        return said if isinstance(said, dict) else {}
    return {}


async def handle(
    tracker: Tracker,
    receiver: ServiceBusReceiver,
    message: ServiceBusReceivedMessage,
    embed: Embed,
    deliveries: int,
) -> None:
    """Embed one message, and settle it; the last delivery that fails makes it a dead letter."""
    said, attempt = read(message), (message.delivery_count or 0) + 1
    job = tracker.track(
        "vectorize",
        tenant=said.get("tenantId") or "default",
        document_id=said.get("shardId"),
        payload={"namespace": said.get("shardTypeId"), "message": str(message.message_id)},
        attempt=attempt,
    )
    try:
        async with job:  # `running` from here on
            vectors = await embed(said["text"])
            job.result = {"model": MODEL, "chunks_stored": len(vectors)}
    except Exception as error:  # noqa: BLE001  # whatever it is, the record and the dead letter tell it
        if attempt < deliveries:
            await receiver.abandon_message(message)
            return
        await job.written()  # whoever finds the dead letter finds its record failed
        await receiver.dead_letter_message(
            message, reason=type(error).__name__, error_description=str(error)[:4000]
        )
    else:
        await receiver.complete_message(message)


async def work(
    connection: str, queue: str, store: str | None = None, *, embed: Embed = embed, deliveries: int = 10
) -> None:
    """Embed until cancelled.

    Args:
        store: where the records are; None: ``PERDURE_STORE``.
        deliveries: the queue's maximum delivery count, or fewer.
    """
    async with (
        perdure.tracker(store) as tracker,
        AutoLockRenewer() as renewer,
        ServiceBusClient.from_connection_string(connection) as client,
        client.get_queue_receiver(queue, auto_lock_renewer=renewer) as receiver,
    ):
        async for message in receiver:
            with suppress(MessageLockLostError):  # it comes again
                await handle(tracker, receiver, message, embed, deliveries)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(work(os.environ["SERVICE_BUS"], os.environ["QUEUE"]))
