"""Follows many jobs to their ends, whoever runs them, and adds up what has been done."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from perdure import wire
from perdure.domain.errors import NotFound
from perdure.domain.job import Job
from perdure.domain.state import JobState

Get = Callable[[str], Awaitable[Job]]
"""Reads one job by its id."""

_STRETCH: Final = 64
"""How many unfinished jobs are read in one go: more than a few workers have in hand."""


@dataclass
class Tally:
    """Where a batch of jobs stands.

    Attributes:
        done: jobs that came to their end, those `gone` (deleted or expired meanwhile) among them.
        states: the terminal states, and how many jobs reached each.
        unchanged: documents whose content was in the index already.
        chunks: in place so far. embedded: those whose vectors were made, not found.
        fraction: 0.0 to 1.0 of the work.
    """

    total: int
    done: int = 0
    states: Counter[JobState] = field(default_factory=Counter)
    unchanged: int = 0
    gone: int = 0
    chunks: int = 0
    embedded: int = 0
    fraction: float = 0.0

    @property
    def good(self) -> bool:
        """Whether every job completed, with nothing missing."""
        return self.states[JobState.COMPLETED] == self.total


class Tracker:
    """Knows the last reading of each job.

    Jobs finish about in the order in which they were added. So each look reads those at the front, and in turn a stretch
    further on, that none be forgotten: it costs the same for a hundred jobs as for a million.

    Args:
        jobs: as they were when added.
        weights: job id → its share of the work, e.g. the size of its file in bytes.
    """

    def __init__(self, jobs: Iterable[Job], weights: Mapping[str, int]) -> None:
        self.jobs = {job.id: job for job in jobs}
        # An empty file is work too: hence 1 more for each.
        self._weights = {job_id: weights.get(job_id, 0) + 1 for job_id in self.jobs}
        self._whole = sum(self._weights.values())
        self._open = list(self.jobs)
        self._moving: dict[str, Job] = {}
        self._ended = Tally(total=len(self.jobs))
        self._ended_weight = 0
        self._turn = 0

    @property
    def open(self) -> int:
        """How many have not come to their end."""
        return len(self._open)

    async def look(self, get: Get) -> None:
        """Read the jobs that may have changed; at the front again as long as it moves on."""
        await self._read(get, self._next_turn())
        while await self._read(get, 0):
            pass

    def _next_turn(self) -> int:
        following = self._turn + _STRETCH
        self._turn = following if following < len(self._open) else _STRETCH
        return self._turn

    async def _read(self, get: Get, start: int) -> bool:
        """Read the open jobs of one stretch; whether any has ended."""
        ids = self._open[start : start + _STRETCH]
        outcomes = await asyncio.gather(*map(get, ids), return_exceptions=True)
        for job_id, outcome in zip(ids, outcomes, strict=True):
            if isinstance(outcome, NotFound):
                self._end(job_id, None)
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                self._note(outcome)
        still_open = [job_id for job_id in ids if job_id in self._weights]
        self._open[start : start + _STRETCH] = still_open
        return len(still_open) < len(ids)

    def _note(self, job: Job) -> None:
        self.jobs[job.id] = job
        if job.finished:
            self._end(job.id, job)
        elif job.progress is not None:
            self._moving[job.id] = job

    def _end(self, job_id: str, job: Job | None) -> None:
        self._moving.pop(job_id, None)
        self._ended_weight += self._weights.pop(job_id)
        self._ended.done += 1
        if job is None:
            del self.jobs[job_id]
            self._ended.gone += 1
            return
        self._ended.states[job.state] += 1
        self._ended.unchanged += was_unchanged(job)
        self._ended.chunks += count(job, "chunks_total")
        self._ended.embedded += count(job, "chunks_embedded")

    def tally(self) -> Tally:
        """Add up what has ended and what is under way."""
        moving = self._moving.values()
        weight = self._ended_weight + sum(
            self._weights[job.id] * (job.progress.fraction or 0.0) for job in moving if job.progress
        )
        return Tally(
            total=self._ended.total,
            done=self._ended.done,
            states=self._ended.states.copy(),
            unchanged=self._ended.unchanged,
            gone=self._ended.gone,
            chunks=self._ended.chunks + sum(count(job, "chunks_stored") for job in moving),
            embedded=self._ended.embedded + sum(count(job, "chunks_embedded") for job in moving),
            fraction=weight / self._whole if self._whole else 1.0,
        )


def was_unchanged(job: Job) -> bool:
    """Whether the job found its document's content in the index already."""
    return wire.counts(job).get("unchanged") is True


def count(job: Job, name: str) -> int:
    """One of the job's counters; 0 where it has none of this name."""
    number = wire.counts(job).get(name)
    return number if isinstance(number, int) else 0
