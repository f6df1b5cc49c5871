"""Records of work that runs elsewhere. The work waits for no store, and sees none of its errors."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import TracebackType
from typing import Any, Final, Self

import msgspec
from msgspec.structs import replace

from perdure.core import outcome
from perdure.core.context import reported
from perdure.core.jobs import JobService
from perdure.core.maintenance import BITE
from perdure.core.replay import Replay
from perdure.core.tales import Buffer, Tale
from perdure.domain import transition
from perdure.domain.errors import InvalidInput
from perdure.domain.job import DEFAULT_TTL, Job, NewJob
from perdure.domain.transition import Transition

log = logging.getLogger(__name__)

BUFFER: Final = 10_000
"""Records of ended work that wait for a store that is away; beyond, the oldest go. Work under way has one each."""
BUFFER_BYTES: Final = 100_000_000
"""Of the payloads and results of these records as JSON; whichever limit is reached first."""
DRAIN: Final = 5.0
"""Seconds that a program which ends gives to what still waits."""


class Tracked:
    """A unit of work: ``async with tracker.track(…) as job``. No call waits; `progress` may come from a thread.

    When the block is left the record is `completed` with `result`; where an exception leaves it, `failed` with that, or
    `cancelled` if it is a cancellation or the end of the process. The exception goes on as it is.

    Attributes:
        result: what the record shall tell in the end, as JSON. A `Partial` makes it `partial`.
    """

    def __init__(self, tracker: Tracker, new: NewJob | None) -> None:
        self.result: object = None
        self._tracker = tracker
        self._new = new
        self._tale: Tale | None = None

    @property
    def id(self) -> str:
        """Of the record; empty where none can be kept, as a warning tells."""
        return self._tale.job.id if self._tale else ""

    @property
    def cancelled(self) -> bool:
        """Whether somebody called the record off. The work goes on unless it heeds this."""
        return self._tale is not None and self._tale.called_off

    def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        """Tell how far the work has come. Of many reports the latest counts.

        Args:
            fraction: 0.0 to 1.0; None: not known.
            counts: counters to add to those told before.
        """
        with _Harmless("a report of progress"):
            if self._tale is not None:
                self._tracker._note(self._tale, fraction, message, counts)

    async def written(self, patience: float = DRAIN) -> bool:
        """Wait until the store knows all that was told so far, e.g. before a message is made a dead letter.

        Args:
            patience: seconds.

        Returns:
            False: the store did not take it in that time or never will, or there is no record.
        """
        until = time.monotonic() + patience
        while (tale := self._tale) is not None and not tale.lost:
            if not self._tracker.waits(tale):
                return True
            if time.monotonic() >= until:
                break
            await asyncio.sleep(0.01)
        return False

    async def __aenter__(self) -> Self:
        with _Harmless("a record"):
            if self._new is not None:
                self._tale = self._tracker._begin(self._new)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _Harmless("the end of a record"):
            if self._tale is not None:
                self._tracker._end(self._tale, self.result, error)


class Tracker:
    """Keeps records of work: what it is told waits in memory until the store has it.

    A record is a job of its kind that comes in running and is kept alive by heartbeats, so that no worker claims it. Work
    whose process died is `failed` as `WorkerDied` once its lease is over, as of any worker.

    Until the store was first reached, times are this machine's.

    Args:
        lease: how long a record counts as alive after a heartbeat.
        ttl: how long a finished record can be looked up, unless it says so itself.
        buffer: records of ended work that may wait.
        prepare: called until it succeeds, before anything is written.
        maintain: also look after dead work and expired records, which any worker does otherwise.
    """

    def __init__(
        self,
        jobs: JobService,
        *,
        lease: timedelta = timedelta(seconds=30),
        ttl: timedelta | None = DEFAULT_TTL,
        buffer: int = BUFFER,
        prepare: Callable[[], Awaitable[None]] | None = None,
        maintain: bool = False,
    ) -> None:
        self.name = f"{socket.gethostname()}:{os.getpid()}:{jobs.chance.getrandbits(24):06x}"
        self._jobs = jobs
        self._lease = lease
        self._ttl = ttl
        self._buffer = Buffer(buffer, BUFFER_BYTES)
        chore = self._maintain if maintain else None
        self._replay = Replay(jobs, self._buffer, self.name, lease, prepare, chore)
        self._closed = False

    @property
    def waiting(self) -> int:
        """Records that the store does not know all of yet."""
        return len(self._buffer.dirty)

    @property
    def dropped(self) -> int:
        """Records that the store will never have, or not to their end."""
        return self._buffer.dropped

    def waits(self, tale: Tale) -> bool:
        """Whether the store does not know all of it yet."""
        return tale.job.id in self._buffer.dirty

    def track(self, kind: str, *, attempt: int = 1, **options: Any) -> Tracked:
        """Keep a record of the work in an ``async with`` block.

        What does not fit is warned about, and the work goes on without its record.

        Args:
            attempt: which try at this work it is, 1 or more: of a queue's message, how often it was delivered.
            options: `tenant`, `payload`, `user_id`, `document_id`, `labels`, `idempotency_key`, `created_by`, `ttl` and `id`
                as in `NewJob`. Where another record has the key already, that one stays as it is, and this
                work has none of its own.

        Raises:
            TypeError: another option.
        """
        fields = {"ttl": self._ttl, **options, "kind": kind}
        try:
            return Tracked(self, NewJob(max_attempts=attempt, max_rescues=0, **fields))
        except InvalidInput as error:
            log.warning("tracking: this work has no record: %s", error)
            return Tracked(self, None)

    async def aclose(self, grace: float = DRAIN) -> None:
        """Write what still waits, for `grace` seconds at most; what is left is counted and warned about."""
        self._closed = True
        await self._replay.finish(grace)
        left = self._buffer.dirty | self._buffer.under_way
        for tale in left.values():
            self._buffer.drop(tale)
        if left:
            log.warning(
                "tracking: %d records are not written to their end, since the store did not take them within %g s, or their "
                "work still goes on",
                len(left),
                grace,
            )

    async def _maintain(self) -> None:
        await self._jobs.settle_overdue(self.name)
        await self._jobs.store.purge(BITE)

    # --- what the work tells ----------------------------------------------------------------

    def _begin(self, new: NewJob) -> Tale:
        if self._closed:
            raise InvalidInput("the tracker is closed; open a new one")
        self._replay.start()
        made = self._jobs.make(new)
        job = transition.claim(made, self.name, self._lease, made.created_at)
        payload = msgspec.json.encode(new.payload)
        # A copy: it is written later, and whoever gave it may change it. This try is the last that the record may have.
        job = replace(job, payload=msgspec.json.decode(payload), attempt=job.max_attempts - 1)
        tale = self._buffer.under_way[job.id] = self._buffer.dirty[job.id] = Tale(job, len(payload))
        self._replay.stir()
        return tale

    def _note(self, tale: Tale, fraction: float | None, message: str, counts: dict[str, int]) -> None:
        if tale.lost:
            return
        progress = reported(tale.job, fraction, message, counts)
        tale.note = transition.save(tale.job, self._jobs.clock.now(), progress=progress)
        tale.job = tale.note.after
        self._buffer.dirty[tale.job.id] = tale
        self._replay.stir()

    def _end(self, tale: Tale, result: object, error: BaseException | None) -> None:
        if tale.lost:
            return
        try:
            move = self._ended(tale.job, result, error)
        except Exception:  # an error that cannot even be printed, say
            self._buffer.drop(tale)
            raise
        body = msgspec.json.encode(move.after.result)
        tale.end = replace(move, after=replace(move.after, result=msgspec.json.decode(body)))
        tale.size += len(body)
        self._buffer.end(tale)
        self._replay.stir()

    def _ended(self, job: Job, result: object, error: BaseException | None) -> Transition:
        stamp = self._jobs.stamp(self.name)
        if error is not None and not isinstance(error, Exception):
            return transition.abandon(job, stamp, reason=type(error).__name__)
        if error is not None:
            return transition.fail(job, outcome.describe(error), timedelta(0), stamp)
        try:
            return outcome.returned(job, result, stamp)
        except InvalidInput as fault:
            log.warning("tracking: record %s is completed without its result: %s", job.id, fault)
            return transition.complete(job, None, stamp)


class _Harmless:
    """No fault of ours, nor of what we were told, comes out."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        if not isinstance(error, Exception):
            return False
        # Whatever it is, the work goes on.
        log.warning("tracking: %s cannot be kept, the work goes on: %s", self._what, error)
        return True
