"""Hints on their way to one reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from perdure.ports.job_store import Change

MAX_HINTS = 1000
"""Hints that wait for a reader; more of them become one that says "something changed"."""


class Listener:
    """What one reader of `changes` has not read yet: each job once, and not without bound."""

    def __init__(self) -> None:
        self._hints: dict[Change, None] = {}
        self._news = asyncio.Event()
        self._open = True

    def tell(self, change: Change) -> None:
        """Note a hint; with too many unread ones, only that there were some."""
        if len(self._hints) >= MAX_HINTS:
            self._hints = {Change(): None}
        else:
            self._hints[change] = None
        self._news.set()

    def end(self) -> None:
        """Let `changes` end."""
        self._open = False
        self._news.set()

    async def changes(self) -> AsyncIterator[Change]:
        """Yield hints as they come."""
        while self._open or self._hints:
            await self._news.wait()
            self._news.clear()
            hints, self._hints = self._hints, {}
            for change in hints:
                yield change
