"""Whether plans may be kept.

The hot statements have one plan for all sizes (tests/contracts/test_postgres_plans.py), but for one case: as long as PostgreSQL
believes that there are next to no jobs, all indexes look alike to it, and a plan of then may read all of a table that is full by
now. What it believes comes with VACUUM and ANALYZE, which make every session forget its plans: so where it believes in enough
jobs now, no plan that is kept is of before.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

EVERY: Final = 1.0
"""Seconds between two looks."""


class Keeping:
    """Looks now and then what PostgreSQL believes.

    Args:
        look: whether it believes in enough jobs.
    """

    def __init__(self, look: Callable[[], Awaitable[Sequence[Any]]]) -> None:
        self._look = look
        self._allowed = False
        self._looked_at = -EVERY

    async def allowed(self) -> bool:
        """Whether plans that read jobs may be kept."""
        now = time.monotonic()
        if now - self._looked_at >= EVERY:
            self._looked_at, self._allowed = now, False  # of those who come meanwhile none waits
            [row] = await self._look()
            self._allowed = row[0]
        return self._allowed
