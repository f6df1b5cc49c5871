"""One connection that listens, for everybody in the process who wants to hear."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeAlias

import asyncpg

from perdure.databases.postgres.errors import translated
from perdure.domain.errors import PerdureError

log = logging.getLogger(__name__)

MAX_UNREAD: Final = 1000
"""Notices that wait for a reader; more of them become one that says "some were missed"."""

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds between attempts to connect again."""

Connect: TypeAlias = Callable[[], Awaitable["asyncpg.Connection[asyncpg.Record]"]]


class _Reader:
    """What one reader has not read yet: each notice once, in order."""

    def __init__(self, holder: object) -> None:
        self.holder = holder
        self._unread: dict[str | None, None] = {}
        self._news = asyncio.Event()
        self._open = True

    def tell(self, notice: str | None) -> None:
        if len(self._unread) >= MAX_UNREAD:
            notice, self._unread = None, {}
        self._unread[notice] = None
        self._news.set()

    def end(self) -> None:
        self._open = False
        self._news.set()

    async def read(self) -> AsyncIterator[str | None]:
        while self._open:
            await self._news.wait()
            self._news.clear()
            notices, self._unread = self._unread, {}
            for notice in notices:
                yield notice


class Listening:
    """Keeps a connection that listens while anybody wants to hear; connects again whenever it breaks."""

    def __init__(self, address: str, connect: Connect) -> None:
        self._address = address
        self._connect = connect
        self._readers: defaultdict[str, set[_Reader]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    async def listen(self, holder: object, channel: str) -> AsyncIterator[str | None]:
        """Yield the channel's notices until `end(holder)`; None: some may have been missed."""
        reader = _Reader(holder)
        self._readers[channel].add(reader)
        self._changed.set()
        if self._task is None:
            self._task = asyncio.create_task(self._keep_listening())
        try:
            async for notice in reader.read():
                yield notice
        finally:
            self._readers[channel].discard(reader)

    def end(self, holder: object) -> None:
        """End the iterators of `holder`."""
        for readers in self._readers.values():
            for reader in readers:
                if reader.holder is holder:
                    reader.end()

    async def close(self) -> None:
        """Close the connection."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _keep_listening(self) -> None:
        pause = FIRST_PAUSE
        while True:
            try:
                with translated(self._address):
                    connection = await self._connect()
                    pause = FIRST_PAUSE
                    await self._listen(connection)
            except PerdureError as error:
                log.warning("no hints for now: %s", error)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _listen(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Listen until the connection breaks."""
        connection.add_termination_listener(lambda _: self._changed.set())
        heard: set[str] = set()
        try:
            while not connection.is_closed():
                self._changed.clear()
                for channel in self._readers.keys() - heard:
                    await connection.add_listener(channel, self._hear)
                    heard.add(channel)
                    self._tell(channel, None)  # what came before we listened was missed
                await self._changed.wait()
        finally:
            connection.terminate()

    def _hear(self, connection: Any, process: int, channel: str, payload: object) -> None:
        self._tell(channel, str(payload))

    def _tell(self, channel: str, notice: str | None) -> None:
        for reader in self._readers[channel]:
            reader.tell(notice)
