"""Where the line of pending jobs begins to live.

As long as somebody holds an old transaction open PostgreSQL may remove no dead row, and every claim would walk over the entries of
all jobs that were claimed since. When claims become slow a task of its own looks, now and then, how old the oldest pending job
is, and claims begin there. A job that becomes due earlier than that, since somebody added it for a time long ago, is found at the
next look.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeAlias

from perdure.domain.errors import PerdureError

Fetch: TypeAlias = Callable[..., Awaitable[Sequence[Any]]]

log = logging.getLogger(__name__)

SLOW: Final = 0.15
"""Seconds of a claim; after `IN_A_ROW` that took longer it is worth looking."""

IN_A_ROW: Final = 3

CHEAP: Final = 0.05
"""Seconds of a look after which claims may begin at the beginning again: there is little that is dead."""

REST: Final = 10
"""A look is followed by a pause of so many times its length, at least of a second."""

FIRST: Final = datetime(1, 1, 2, tzinfo=UTC)
"""Before every time."""

SLACK: Final = timedelta(seconds=0.5)
"""Jobs may be committed so much later than they are due."""

_ANY: Final = ("state = 'pending' AND kind", "state = 'pending' AND due_at >= $7 AND kind")
_ANSWER: Final = (" AS more\n", " AS more, (SELECT min(due_at) FROM lane) AS head\n")


def with_floor(claim: str) -> str:
    """The statement `claim`, with the time to begin at as one parameter more, and the oldest due job as a column more."""
    return claim.replace(*_ANY).replace(*_ANSWER)


class Floor:
    """The time at which claims of some kinds begin; None: at the beginning.

    Args:
        fetch: runs a statement by name.
    """

    def __init__(self, kinds: Sequence[str], fetch: Fetch) -> None:
        self.since: datetime | None = None
        self._kinds = list(kinds)
        self._fetch = fetch
        self._slow = 0
        self._task: asyncio.Task[None] | None = None

    def note(self, seconds: float, head: datetime | None) -> None:
        """Tell how long a claim took, and when the first job was due that it found from `since` on."""
        self._slow = self._slow + 1 if seconds > SLOW else 0
        if self._slow >= IN_A_ROW and self._task is None:
            self._task = asyncio.create_task(self._look())
        if self.since is not None and head is not None:
            self.since = max(self.since, head - SLACK)

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _look(self) -> None:
        try:
            while True:
                begun = time.monotonic()
                [row] = await self._fetch("oldest_pending", self._kinds)
                spent = time.monotonic() - begun
                if spent < CHEAP:
                    break
                self.since = row["oldest"] - SLACK
                await asyncio.sleep(max(1.0, REST * spent))
        except PerdureError as error:
            log.debug("claims begin at the beginning again: %s", error)
        finally:
            self.since = self._task = None


class Mark:
    """The time from which to look for what is overdue: from the beginning, unless that took long a short while ago."""

    def __init__(self) -> None:
        self._since = FIRST
        self._again_at = 0.0

    def begin(self) -> datetime:
        """Where to begin now."""
        return self._since if time.monotonic() < self._again_at else FIRST

    def end(self, since: datetime, seconds: float, reached: datetime) -> None:
        """Tell how long a look from `since` took, and before which time there is nothing overdue."""
        if since == FIRST:
            self._again_at = time.monotonic() + REST * seconds if seconds > SLOW else 0.0
        self._since = reached
