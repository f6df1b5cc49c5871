"""A clock that tests move by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


class MovableClock:
    """Stands still until it is moved. Call it to read it.

    Args:
        start: the first reading, aware; None: the machine's time now.
    """

    def __init__(self, start: datetime | None = None) -> None:
        self._now = datetime.now(UTC) if start is None else start

    def __call__(self) -> datetime:
        return self._now

    def advance(self, step: timedelta) -> None:
        """Move the clock on; a negative step turns it back."""
        self._now += step
