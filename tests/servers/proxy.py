"""A TCP proxy that a test breaks at will: answers swallowed and their connections cut, when the server has done what was asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Proxy:
    """Stands between a client and a server on the loopback.

    Attributes:
        port: where clients connect.
        lost: how many answers were swallowed.
        refusing: whether it drops whoever connects.
    """

    def __init__(self, target: int) -> None:
        self.port = 0
        self.lost = 0
        self.refusing = False
        self._target = target
        self._links: set[asyncio.StreamWriter] = set()
        self._losing = (0, b"", b"")

    def lose(self, times: int, *, asked: bytes = b"", answered: bytes = b"") -> None:
        """Swallow the next answers, and all that follows on their connections; 0 of them: no more.

        Args:
            asked, answered: what the question and the answer must hold.
        """
        self._losing = (times, asked, answered)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass bytes on in both directions until either side ends."""
        if self.refusing:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        self._links |= {writer, far_writer}
        doomed = False

        async def ask() -> None:
            nonlocal doomed
            while piece := await reader.read(65536):
                times, asked, _ = self._losing
                doomed = times > 0 and (doomed or asked in piece)
                far_writer.write(piece)

        async def answer() -> None:
            while piece := await far_reader.read(65536):
                times, asked, answered = self._losing
                if doomed and times > 0 and answered in piece:
                    self._losing = (times - 1, asked, answered)
                    self.lost += 1
                    return
                writer.write(piece)

        both = [asyncio.create_task(ask()), asyncio.create_task(answer())]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        for task in both:
            task.cancel()
        await asyncio.gather(*both, return_exceptions=True)
        self._links -= {writer, far_writer}
        for end in (writer, far_writer):
            end.transport.abort()

    def cut(self) -> None:
        """Reset all connections."""
        for writer in tuple(self._links):
            writer.transport.abort()


@asynccontextmanager
async def tcp_proxy(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy in front of the port `target`, on a free port."""
    proxy = Proxy(target)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        proxy.cut()
        await server.wait_closed()
