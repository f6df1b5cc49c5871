"""Hints by pub/sub: one message for each script that changed something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.client import PubSub

from perdure.ports.job_store import Change
from perdure.stores.redis.errors import translated

MANY: Final = 1000
"""Messages that are read in one go, so that many hints at the same job become one."""

_ONE_LISTENING: Final = 30.0


async def changes(
    client: Redis | RedisCluster, prefix: str, server: str, closing: asyncio.Event
) -> AsyncIterator[Change]:
    """Yield hints until the store closes.

    Raises:
        StoreUnavailable: the connection was lost. Call again; what happened meanwhile is not told.
    """
    with translated(server):
        async with client.pubsub() as pubsub:
            await pubsub.subscribe(f"{prefix}|changes")
            while (messages := await _messages(pubsub, closing)) is not None:
                for change in _hints(messages):
                    yield change


async def _messages(pubsub: PubSub, closing: asyncio.Event) -> list[bytes] | None:
    """Everything that is there, after waiting for the first; None once the store closes."""
    first = asyncio.ensure_future(_next(pubsub, _ONE_LISTENING))
    closed = asyncio.ensure_future(closing.wait())
    try:
        await asyncio.wait({first, closed}, return_when=asyncio.FIRST_COMPLETED)
        if closing.is_set():
            return None
        messages = [await first]
    finally:
        closed.cancel()
        first.cancel()
        await asyncio.gather(first, closed, return_exceptions=True)
    while messages[-1] is not None and len(messages) < MANY:
        messages.append(await _next(pubsub, 0))
    return [message for message in messages if message is not None]


async def _next(pubsub: PubSub, timeout: float) -> bytes | None:
    message: dict[str, Any] | None = await pubsub.get_message(timeout=timeout)
    return message["data"] if message is not None and message["type"] == "message" else None


def _hints(messages: list[bytes]) -> dict[Change, None]:
    """Each job once, in order; an empty message says that there were many."""
    hints: dict[Change, None] = {}
    for message in messages:
        for one in message.decode().split(" "):
            tenant, _, job_id = one.partition("|")
            hints[Change(tenant=tenant, job_id=job_id) if job_id else Change()] = None
    return hints
