"""A pooler by transaction, as PgBouncer is: each transaction of a client may run on another server connection.

It goes out of its way to give the next transaction another connection, so that whatever a client keeps in its session
(prepared statements, settings, LISTEN) is missed at once.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

READY, SYNC, QUERY, TERMINATE = b"Z", b"S", b"Q", b"X"
IDLE = b"I"
SSL_REQUEST, CANCEL_REQUEST = 80877103, 80877102


class _Link:
    """A connection to the server that has logged in."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes) -> None:
        self.reader, self.writer, self.greeting = reader, writer, greeting
        self.unanswered = 0


class Pooler:
    """Serves clients with `size` connections to the server at `target`.

    Attributes:
        handed_out: how often a transaction got a connection.
    """

    def __init__(self, target: int, size: int) -> None:
        self.handed_out = 0
        self._target = target
        self._links: list[_Link] = []
        self._free: asyncio.Queue[_Link] = asyncio.Queue()
        self._to_make = size
        self._clients: set[_Client] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes."""
        client = _Client(self, reader, writer)
        self._clients.add(client)
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            await client.run()
        self._clients.discard(client)
        client.close()

    async def take(self, startup: bytes) -> _Link:
        """Wait for the connection that has rested longest."""
        self.handed_out += 1
        if self._to_make > 0:
            self._to_make -= 1
            return await self._connect(startup)
        return await self._free.get()

    def give_back(self, link: _Link) -> None:
        """Its transaction has ended."""
        self._free.put_nowait(link)

    def drop(self, link: _Link) -> None:
        """Its client went in the middle of a transaction."""
        link.writer.transport.abort()
        self._to_make += 1

    async def _connect(self, startup: bytes) -> _Link:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._target)
        writer.write(startup)
        greeting, kind = b"", b""
        while kind != READY:
            kind, message = await _message(reader)
            greeting += message
        link = _Link(reader, writer, greeting)
        self._links.append(link)
        return link

    async def close(self) -> None:
        """Drop all connections."""
        for client in tuple(self._clients):
            client.close()
        for link in self._links:
            link.writer.transport.abort()
        while self._clients:
            await asyncio.sleep(0.001)


class _Client:
    def __init__(self, pooler: Pooler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._pooler, self._reader, self._writer = pooler, reader, writer
        self._link: _Link | None = None
        self._answering: asyncio.Task[None] | None = None

    async def run(self) -> None:
        startup = await _startup(self._reader, self._writer)
        link = await self._pooler.take(startup)
        self._pooler.give_back(link)
        self._writer.write(link.greeting)
        while True:
            kind, message = await _message(self._reader)
            if kind == TERMINATE:
                return
            if self._link is None:
                self._link = await self._pooler.take(startup)
                self._answering = asyncio.create_task(self._answer(self._link))
            self._link.unanswered += kind in {SYNC, QUERY}
            self._link.writer.write(message)

    async def _answer(self, link: _Link) -> None:
        """Pass on what the server says until the transaction has ended."""
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                kind, message = await _message(link.reader)
                self._writer.write(message)
                link.unanswered -= kind == READY
                if kind == READY and link.unanswered == 0 and message.endswith(IDLE):
                    self._link = None
                    self._pooler.give_back(link)
                    return

    def close(self) -> None:
        self._writer.transport.abort()
        if self._link is not None:
            self._pooler.drop(self._link)
            self._link = None


async def _startup(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The client's first message; an offer of TLS is declined, and a wish to cancel heard but not passed on."""
    while True:
        head = await reader.readexactly(8)
        length, code = struct.unpack("!II", head)
        rest = await reader.readexactly(length - 8)
        if code == CANCEL_REQUEST:
            raise ConnectionAbortedError
        if code != SSL_REQUEST:
            return head + rest
        writer.write(b"N")


async def _message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    head = await reader.readexactly(5)
    return head[:1], head + await reader.readexactly(struct.unpack("!I", head[1:])[0] - 4)


@asynccontextmanager
async def transaction_pooler(target: int, size: int = 3) -> AsyncIterator[tuple[Pooler, int]]:
    """Run a pooler in front of the server's port; it, and its port."""
    pooler = Pooler(target, size)
    server = await asyncio.start_server(pooler.serve, "127.0.0.1", 0)
    try:
        yield pooler, server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await pooler.close()
