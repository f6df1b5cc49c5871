"""What somebody has to do now and then; every worker does it, and each thing is done once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

from perdure.core.jobs import JobService
from perdure.domain.errors import StoreError

log = logging.getLogger(__name__)

PURGE_EVERY = timedelta(minutes=1)
BITE = 500
"""Jobs removed in one step, so that nobody waits long for a purge."""


class Maintenance:
    """Rescues jobs of dead workers, lets deadlines pass, purges what expired.

    Args:
        every: the pause between two rounds; rescues come at most so much later than a lease's end.
        chores: done after each purge.
    """

    def __init__(
        self,
        jobs: JobService,
        actor: str,
        *,
        every: timedelta,
        chores: Sequence[Callable[[], Awaitable[object]]] = (),
    ) -> None:
        self._jobs = jobs
        self._actor = actor
        self._every = every
        self._chores = chores

    async def run(self) -> None:
        """Go on until cancelled. A store that is away is waited for."""
        purge_due = self._jobs.clock.now()
        while True:
            try:
                await self._jobs.clock.sync()
                await self.settle()
                if self._jobs.clock.now() >= purge_due:
                    await self.purge()
                    for chore in self._chores:
                        await chore()
                    purge_due = self._jobs.clock.now() + PURGE_EVERY
            except StoreError as error:
                log.warning("maintenance waits for the store: %s", error)
            # Jitter keeps the replicas of a deploy from coming all at once.
            await asyncio.sleep(self._every.total_seconds() * (0.75 + self._jobs.chance.random() / 2))

    async def settle(self) -> int:
        """Settle all that is overdue now; how many."""
        settled = 0
        while found := await self._jobs.settle_overdue(self._actor, BITE):
            settled += found
            if found < BITE:
                break
        return settled

    async def purge(self) -> int:
        """Remove all that expired, in bites; how many."""
        purged = 0
        while gone := await self._jobs.store.purge(BITE):
            purged += gone
            if gone < BITE:
                break
            # Others want the store too.
            await asyncio.sleep(0.01)
        return purged
