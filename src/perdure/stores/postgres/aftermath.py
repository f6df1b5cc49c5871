"""What is done after a write, beside the way of those who wait for it: hints go out, counts are folded."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from perdure.databases.postgres import PostgresDatabase
from perdure.domain.errors import PerdureError
from perdure.domain.job import Job
from perdure.ports.job_store import Change

log = logging.getLogger(__name__)

CHANNEL: Final = "perdure_jobs"
NOTIFY: Final = "SELECT pg_notify($1, $2)"

PAUSE: Final = 0.03
"""Seconds between two notices: what changes meanwhile shares the next one."""

FOLD_EVERY: Final = 250
"""Calls that wrote, after which counts are folded."""

MAX_NAMED: Final = 40
"""Jobs that a notice names (PostgreSQL allows it 8,000 bytes); with more it says only that there were some."""


class Aftermath:
    """Hints go out at once when it is quiet, else every `PAUSE` seconds.

    Args:
        announce: whether there are hints at all.
        fold: the statement that folds counts.
    """

    def __init__(self, database: PostgresDatabase, fold: str, *, announce: bool) -> None:
        self._database = database
        self._fold = fold
        self._announce = announce
        self._named: dict[tuple[str, str], None] | None = {}
        """(tenant, job id); None: too many to name."""
        self._unfolded = 0
        self._task: asyncio.Task[None] | None = None

    def tell(self, jobs: Iterable[tuple[str, str]]) -> None:
        """Note that these were changed by one call; never waits. Too many of them become one hint that names none."""
        self._unfolded += 1
        for job in jobs if self._announce else ():
            if self._named is None:
                break
            self._named[job] = None
            if len(self._named) > MAX_NAMED:
                self._named = None
        if self._task is None and self._due():
            self._task = asyncio.create_task(self._work())

    def ride(self, job: Job) -> str | None:
        """The notice of a job that is about to be added, for its own statement to carry: a commit less to wait for.

        None where hints are under way already: then `tell` of it.
        """
        if not self._announce or self._task is not None:
            return None
        self._task = asyncio.create_task(self._work(after=PAUSE))
        return notice_of(names([job]))

    async def close(self) -> None:
        """Do what is left."""
        if self._task is not None:
            await asyncio.wait({self._task})

    def _due(self) -> bool:
        return self._named != {} or self._unfolded >= FOLD_EVERY

    async def _work(self, after: float = 0.0) -> None:
        try:
            await asyncio.sleep(after)
            while self._due():
                if self._named != {}:
                    notice, self._named = notice_of(self._named), {}
                    await self._execute(NOTIFY, CHANNEL, notice)
                if self._unfolded >= FOLD_EVERY:
                    self._unfolded = 0
                    await self._execute(self._fold)
                await asyncio.sleep(PAUSE)
        except PerdureError as error:  # polling must suffice, and counts are right unfolded too
            log.debug("a hint was lost: %s", error)
        finally:
            self._task = None

    async def _execute(self, statement: str, *values: str) -> None:
        await self._database.run(lambda connection: connection.execute(statement, *values))


def names(jobs: Iterable[Job]) -> Iterator[tuple[str, str]]:
    """What `Aftermath.tell` and `notice_of` take."""
    return ((job.tenant, job.id) for job in jobs)


def notice_of(named: Iterable[tuple[str, str]] | None) -> str:
    """The payload of a notice."""
    jobs = list(named or ())
    return "" if not jobs or len(jobs) > MAX_NAMED else msgspec.json.encode(jobs).decode()


def changes_of(notice: str | None) -> list[Change]:
    """What a notice tells."""
    if not notice:
        return [Change()]
    return [Change(tenant=tenant, job_id=job_id) for tenant, job_id in msgspec.json.decode(notice)]
