"""What ended lately, minute by minute, from the store's log: it is read on when somebody looks, and costs nothing otherwise."""

from __future__ import annotations

import asyncio
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

from perdure.core.jobs import JobService
from perdure.domain.errors import CursorLost
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import TERMINAL, JobState

MINUTES: Final = 60
SAMPLE: Final = 500
"""Finished jobs that are read for a tenant who was not looked at before."""
PAGES: Final = 4
"""Pages of the log that one look reads; where there are more it begins anew from a sample."""
SECONDS: Final = 1000
"""Runs of one minute of which the length is kept."""
_VARYING: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|\d+")


class Minute(NamedTuple):
    """What ended in a minute."""

    ended: int = 0
    failed: int = 0
    seconds: tuple[float, ...] = ()

    def plus(self, failed: bool, seconds: float) -> Minute:
        """One run more."""
        return Minute(self.ended + 1, self.failed + failed, (*self.seconds, seconds)[:SECONDS])

    def quantile(self, part: float) -> float | None:
        """How long the quickest `part` of the runs took at most, in seconds."""
        runs = sorted(self.seconds)
        return runs[min(len(runs) - 1, int(part * len(runs)))] if runs else None


class Recent:
    """The last hour of the tenants that somebody looks at."""

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self._lock = asyncio.Lock()
        self._cursor: str | None = None
        self._minutes: dict[str, defaultdict[int, Minute]] = {}
        self._sampled: set[tuple[str, datetime]] = set()

    async def hour(self, tenant: str) -> list[Minute]:
        """The tenant's last 60 minutes, the one under way last."""
        async with self._lock:
            await self._read_on()
            if tenant not in self._minutes:
                await self._sample(tenant)
        kept, now = self._minutes[tenant], _minute(self._jobs.clock.now())
        for old in [minute for minute in kept if minute <= now - MINUTES]:
            del kept[old]
        return [kept.get(minute, Minute()) for minute in range(now - MINUTES + 1, now + 1)]

    async def _read_on(self) -> None:
        for _ in range(PAGES if self._cursor is not None else 0):
            try:
                page = await self._jobs.store.entries(self._cursor, 500)
            except CursorLost:
                break
            self._cursor = page.next
            for line in page.lines:
                entry, kept = line.entry, self._minutes.get(line.tenant)
                if kept is None or entry.state not in TERMINAL or entry.started_at is None:
                    continue
                if (line.job_id, entry.at) not in self._sampled:
                    seconds = (entry.at - entry.started_at).total_seconds()
                    self._add(kept, entry.at, entry.state, seconds)
            if not page.more:
                return
        self._cursor = (await self._jobs.store.entries(None, 1)).next
        self._minutes.clear()
        self._sampled.clear()

    async def _sample(self, tenant: str) -> None:
        kept = self._minutes[tenant] = defaultdict(Minute)
        for job in await self._jobs.store.find(JobFilter(tenant=tenant, states=tuple(TERMINAL)), SAMPLE):
            if job.completed_at is not None and job.started_at is not None:
                self._sampled.add((job.id, job.completed_at))
                self._add(
                    kept, job.completed_at, job.state, (job.completed_at - job.started_at).total_seconds()
                )

    def _add(self, kept: defaultdict[int, Minute], at: datetime, state: JobState, seconds: float) -> None:
        kept[_minute(at)] = kept[_minute(at)].plus(state is JobState.FAILED, seconds)


def reasons(jobs: Iterable[Job]) -> list[tuple[str, str, int, str]]:
    """Failures grouped by what they have in common, the most frequent first: kind, reason, number, id of one."""
    counted: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    for job in jobs:
        if job.failure is not None:
            said = _VARYING.sub("…", job.failure.message.partition("\n")[0])[:200]
            group = (job.kind, f"{job.failure.type}: {said}")
            counted[group] += 1
            example.setdefault(group, job.id)
    return [(*group, number, example[group]) for group, number in counted.most_common(10)]


def _minute(at: datetime) -> int:
    return int(at.timestamp() // 60)
