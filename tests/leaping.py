"""A loop whose seconds take no time: for tests that wait for nothing but timers, so that a busy machine does not count."""

from __future__ import annotations

import asyncio
import selectors


class Leaps(selectors.SelectSelector):
    """Leaps from one timer to the next."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now += timeout or 0.0
        return super().select(0)


class LeapingLoop(asyncio.SelectorEventLoop):
    """The loop of tests that are marked as `leaping`."""

    def __init__(self) -> None:
        self.leaps = Leaps()
        super().__init__(self.leaps)

    def time(self) -> float:
        return self.leaps.now
