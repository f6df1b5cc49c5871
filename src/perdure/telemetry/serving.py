"""`/metrics` of a process that serves nothing else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from perdure.domain.errors import InvalidInput
from perdure.telemetry.metrics import CONTENT_TYPE, Metrics

log = logging.getLogger(__name__)

PATIENCE: Final = 10.0
"""Seconds for one request and its answer."""


@asynccontextmanager
async def metrics_at(address: str, metrics: Metrics) -> AsyncIterator[int]:
    """Answer scrapes inside the block; gives the port.

    Args:
        address: ``9100``, ``0.0.0.0:9100``, ``[::1]:9100``; without a host on 127.0.0.1 only. Port 0: any that is free.

    Raises:
        InvalidInput: it is no address, is taken, or the client library is not installed.
    """
    host, _, port = address.rpartition(":")
    await metrics.scrape()  # what is missing is said now, not to Prometheus
    try:
        server = await asyncio.start_server(_Answer(metrics), host.strip("[]") or "127.0.0.1", int(port))
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"cannot tell metrics at {address!r}: {error}; expected e.g. 9100 or 0.0.0.0:9100"
        ) from None
    async with server:
        bound: int = server.sockets[0].getsockname()[1]
        log.info("metrics at http://%s:%d/metrics", host or "127.0.0.1", bound)
        yield bound


class _Answer:
    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                request = await reader.readuntil(b"\r\n\r\n")
                found = request.startswith((b"GET /metrics ", b"GET /metrics?"))
                body = await self._metrics.scrape() if found else b"GET /metrics\n"
                head = (
                    f"HTTP/1.1 {'200 OK' if found else '404 Not Found'}\r\nContent-Type: {CONTENT_TYPE}\r\n"
                )
                writer.write(
                    f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
                )
                await writer.drain()
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
            log.info("a scrape broke off: %r", error)
        finally:
            writer.close()
