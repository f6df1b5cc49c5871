"""The store's clock, without asking the store each time."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

STALE = 60.0
"""Seconds after which a reading is worth another."""


class StoreClock:
    """Tells the store's time: read once in a while by `sync`, carried on by a monotonic clock in between.

    A process whose own clock is an hour off stamps the right times all the same.

    Args:
        read: asks the store for its time.
        monotonic: seconds that never go back.
    """

    def __init__(
        self, read: Callable[[], Awaitable[datetime]], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._read = read
        self._monotonic = monotonic
        # Until the first `sync` the machine's own clock has to do.
        self._origin = datetime.now(UTC) - timedelta(seconds=monotonic())
        self._synced = -STALE

    async def sync(self) -> None:
        """Read the store's clock. The time that the answer took is not added, so that we are late by that, and
        never early: a job due "now" by our stamp is due by the store's clock too.
        """
        told = await self._read()
        self._synced = self._monotonic()
        self._origin = told - timedelta(seconds=self._synced)

    async def refresh(self) -> None:
        """Read it again if the last reading is older than `STALE`: two machines' clocks drift apart."""
        if self._monotonic() - self._synced > STALE:
            await self.sync()

    def now(self) -> datetime:
        """The store's time, aware, UTC."""
        return self._origin + timedelta(seconds=self._monotonic())
