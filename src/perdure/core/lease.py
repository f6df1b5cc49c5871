"""One heartbeat for all of a worker's jobs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from perdure.core.context import Context, Writer
from perdure.core.jobs import JobService
from perdure.domain.errors import StoreError
from perdure.domain.job import Job

log = logging.getLogger(__name__)

LONGEST_PAUSE = 2.0
"""Seconds between heartbeats at most: so soon a running job learns that it was cancelled."""


class _Held:
    """A job in our hands: its epoch, until when it is surely ours, and who to tell if it is not."""

    __slots__ = ("context", "epoch", "task", "valid_until")

    def __init__(self, epoch: int, valid_until: float) -> None:
        self.epoch = epoch
        self.valid_until = valid_until
        self.context: Context | None = None
        self.task: asyncio.Task[None] | None = None


class Leases:
    """The jobs that a worker holds, running or waiting for a slot.

    Each is trusted only until its lease would end by our own monotonic clock, counted from before the call
    that got it: a worker that was stopped for an hour finds its jobs lost before it hears so from the store.

    Args:
        length: of each lease.
    """

    def __init__(self, jobs: JobService, worker: str, length: timedelta) -> None:
        self.length = length
        self._jobs = jobs
        self._worker = worker
        self._held: dict[str, _Held] = {}

    def took(self, jobs: Sequence[Job], begun: float) -> None:
        """Jobs were claimed by a call that began at `begun` (monotonic seconds)."""
        valid_until = begun + self.length.total_seconds()
        for job in jobs:
            if (old := self._held.get(job.id)) is not None and old.epoch != job.epoch:
                self.lose(job.id, old.epoch, "it was called off and claimed again")
            self._held[job.id] = _Held(job.epoch, valid_until)

    def context(
        self, job: Job, task: asyncio.Task[None], writer: Writer, now: Callable[[], datetime]
    ) -> Context:
        """The context for a run of the job by the task."""
        held = self._held[job.id] if self.holds(job) else _Held(job.epoch, 0.0)
        held.context = Context(job, writer, now, valid_until=held.valid_until)
        held.task = task
        return held.context

    def holds(self, job: Job) -> bool:
        """Whether the job is still ours, as far as we know."""
        held = self._held.get(job.id)
        return held is not None and held.epoch == job.epoch

    def run_by(self, task: object) -> Job | None:
        """The job whose run the task is."""
        return next(
            (held.context.job for held in list(self._held.values()) if held.task is task and held.context),
            None,
        )

    def drop(self, job: Job) -> None:
        """This run of the job is done with; no more heartbeats."""
        if self.holds(job):
            del self._held[job.id]

    def lose(self, job_id: str, epoch: int, reason: str) -> None:
        """The job is another's: tell its run, and stop it."""
        held = self._held.get(job_id)
        if held is None or held.epoch != epoch:
            return
        del self._held[job_id]
        self._jobs.tally["lost"] += 1
        told = {"job": job_id}
        log.warning(
            "worker %s: LeaseLost: job %s (epoch %d): %s", self._worker, job_id, epoch, reason, extra=told
        )
        if held.context is not None:
            held.context.lose(reason)
        if held.task is not None:
            held.task.cancel()

    async def run(self) -> None:
        """Beat until cancelled."""
        pause = min(self.length.total_seconds() / 3, LONGEST_PAUSE)
        while True:
            await asyncio.sleep(pause)
            if self._held:
                await self._beat()

    async def _beat(self) -> None:
        begun = time.monotonic()
        epochs = {job_id: held.epoch for job_id, held in self._held.items()}
        try:
            lost = await self._jobs.store.extend(self._worker, epochs, self.length)
        except StoreError as error:
            log.warning("no heartbeat for %d jobs: %s", len(epochs), error)
            lost = set()
        else:
            self._prolong(epochs.keys() - lost, begun + self.length.total_seconds())
        for job_id in lost:
            self.lose(job_id, epochs[job_id], "it was cancelled, deleted, or taken by another worker")
        self._lose_overdue()

    def _prolong(self, job_ids: set[str], valid_until: float) -> None:
        for job_id in job_ids:
            if held := self._held.get(job_id):
                held.valid_until = valid_until
                if held.context is not None:
                    held.context.prolong(valid_until)

    def _lose_overdue(self) -> None:
        now = time.monotonic()
        for job_id, held in list(self._held.items()):
            if held.valid_until < now:
                self.lose(job_id, held.epoch, "no heartbeat went through before its lease ran out")
