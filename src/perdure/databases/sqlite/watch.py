"""Noticing commits: one's own at once, other processes' by polling a number that SQLite keeps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakSet

from perdure.domain.errors import StoreError

POLL_SECONDS: Final = 0.05
"""How often other processes' commits are looked for while somebody watches."""


class Watch:
    """An async iterator that yields once for any number of commits since it was last asked."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self._closed = False

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> None:
        await self._event.wait()
        if self._closed:
            raise StopAsyncIteration
        self._event.clear()

    def wake(self, *, closed: bool = False) -> None:
        """Let the iterator go on; `closed`: to its end."""
        self._closed |= closed
        self._event.set()


class Watchers:
    """All watches of one database. It polls only while there are any."""

    def __init__(self, data_version: Callable[[], Awaitable[int]]) -> None:
        self._data_version = data_version
        self._watches: WeakSet[Watch] = WeakSet()
        self._poller: asyncio.Task[None] | None = None

    def watch(self) -> Watch:
        """Begin to watch; dropping the object ends it."""
        watch = Watch()
        self._watches.add(watch)
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        return watch

    def notify(self) -> None:
        """Something was committed here."""
        for watch in self._watches:
            watch.wake()

    def close(self) -> None:
        """End every watch."""
        if self._poller is not None:
            self._poller.cancel()
        for watch in self._watches:
            watch.wake(closed=True)

    async def _poll(self) -> None:
        seen: int | None = None
        while self._watches:
            try:
                version = await self._data_version()
            except StoreError:  # hints may be lost; whoever reads or writes hears of the trouble
                version = None
            if None not in (seen, version) and seen != version:
                self.notify()
            seen = version or seen
            await asyncio.sleep(POLL_SECONDS)
        self._poller = None
