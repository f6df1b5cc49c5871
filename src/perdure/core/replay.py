"""What a store is still to be told about tracked work: kept in memory, and told in the background when it answers."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from itertools import islice
from typing import Final

from msgspec.structs import replace

from perdure.core.hints import wait_for
from perdure.core.jobs import JobService
from perdure.core.tales import Buffer, Tale
from perdure.domain import transition
from perdure.domain.errors import IllegalTransition, InvalidInput, PerdureError, StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.domain.transition import Transition

log = logging.getLogger(__name__)

MAX_BATCH: Final = 500
MEND_BATCH: Final = 100
PACE: Final = 0.05
"""Seconds between two writes: what changes meanwhile shares the next one."""
PATIENCE: Final = 30.0
"""Seconds after which a store that says nothing is away."""
LONGEST_PAUSE: Final = 5.0
"""Seconds between two tries while it is, at most."""


class Replay:
    """Tells the store: what came in, what the latest progress is, how it ended; and that the work under way is alive.

    Every write may be said again. The first that fails is warned about; then it is quiet until the store answers again.

    Args:
        name: whose work it is.
        prepare: called until it succeeds, before anything is told.
        chore: done after each heartbeat.
    """

    def __init__(
        self,
        jobs: JobService,
        buffer: Buffer,
        name: str,
        lease: timedelta,
        prepare: Callable[[], Awaitable[None]] | None,
        chore: Callable[[], Awaitable[None]] | None,
    ) -> None:
        self._jobs = jobs
        self._buffer = buffer
        self._name = name
        self._lease = lease
        self._prepare = prepare
        self._chore = chore
        self._wanted = asyncio.Event()
        self._stirred = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._beat_due = 0.0
        self._failures = 0
        self._size = MAX_BATCH
        """How many are told at once: fewer where so many took too long."""
        self._away_since = 0.0
        self._dropped_before = 0

    def start(self) -> None:
        """Go on in the background, unless it does."""
        if self._task is None or self._task.done():
            self._loop, self._stirred = asyncio.get_running_loop(), False
            self._task = asyncio.create_task(self._run(), name="perdure-tracker")

    def stir(self) -> None:
        """There is something to tell. From any thread."""
        if self._loop is not None and not self._stirred:
            self._stirred = True  # once for all that comes before the next look
            self._loop.call_soon_threadsafe(self._wanted.set)

    async def finish(self, grace: float) -> None:
        """Tell what is left, for so many seconds at most."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._beat_due = math.inf
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._buffer.dirty:
                    await self._turn()

    async def _run(self) -> None:
        while True:
            if not self._buffer.dirty:
                await wait_for(self._wanted, max(0.0, self._beat_due - time.monotonic()))
            self._wanted.clear()
            self._stirred = False
            if self._buffer.dirty or time.monotonic() >= self._beat_due:
                await self._turn()

    async def _turn(self) -> None:
        """Tell the store once, then rest a while."""
        begun = time.monotonic()
        try:
            if self._prepare is not None:
                await self._prepare()
                self._prepare = None
            async with asyncio.timeout(PATIENCE):
                if beating := time.monotonic() >= self._beat_due:
                    await self._beat()
                if self._buffer.dirty:
                    await self._write(list(islice(self._buffer.dirty.values(), self._size)))
                if beating and self._chore is not None:
                    await self._chore()
        except Exception as error:  # noqa: BLE001  # whatever it is, it is the record's trouble, never the work's
            self._failed(error, time.monotonic() - begun)
        else:
            self._answered()
        pause = PACE if not self._failures else min(LONGEST_PAUSE, PACE * 2.0**self._failures)
        await asyncio.sleep(pause * (0.75 + self._jobs.chance.random() / 2))

    def _failed(self, error: Exception, took: float) -> None:
        if not self._failures:
            self._away_since = time.monotonic()
            log.warning(
                "tracking: the store takes no records. The work goes on; they wait in memory, up to %s of ended work, until "
                "it does: see that it runs and can be reached (%s)",
                f"{self._buffer.limit:,}",
                str(error) or repr(error),
            )
        self._failures = min(self._failures + 1, 10)
        if isinstance(error, TimeoutError) or took > PATIENCE / 3:
            self._size = max(1, self._size // 2)

    def _answered(self) -> None:
        if self._failures:
            log.info(
                "tracking: the store takes records again after %.1f s; %d wait, %d were dropped",
                time.monotonic() - self._away_since,
                len(self._buffer.dirty),
                self._buffer.dropped - self._dropped_before,
            )
        self._failures = 0
        self._size = min(MAX_BATCH, self._size + 1)
        self._dropped_before = self._buffer.dropped
        self._buffer.full = False

    # --- writing ----------------------------------------------------------------------------

    async def _write(self, tales: list[Tale]) -> None:
        try:
            await self._send(tales)
        except StoreUnavailable:
            raise
        except PerdureError as error:
            if len(tales) > 1:  # perhaps for one of them: the others are not held up
                await self._write_apart(tales)
            elif isinstance(error, InvalidInput):
                self._refused(tales[0], error)
            else:
                raise

    async def _write_apart(self, tales: list[Tale]) -> None:
        faults: list[tuple[Tale, PerdureError]] = []
        for tale in tales:
            try:
                await self._write([tale])
            except StoreUnavailable:
                raise
            except PerdureError as error:
                faults.append((tale, error))
        if len(faults) == len(tales):
            raise faults[0][1]  # it takes nothing at all
        for tale, fault in faults:
            self._refused(tale, fault)

    async def _send(self, tales: list[Tale]) -> None:
        if new := [tale for tale in tales if not tale.known and not tale.lost]:
            await self._add(new)
        moves = [(tale, move) for tale in tales if not tale.lost and (move := tale.end or tale.note)]
        stands = await self._jobs.apply([move for _, move in moves]) if moves else []
        for (tale, move), stood in zip(moves, stands, strict=True):
            if stood and move is tale.end:
                self._buffer.forget(tale)
            elif stood and move is tale.note:
                tale.note = None
        for tale in tales:
            self._buffer.told(tale)
        await self._mend([tale for (tale, _), stood in zip(moves, stands, strict=True) if not stood])

    async def _add(self, tales: list[Tale]) -> None:
        due = self._jobs.clock.now() + self._lease  # not from when it began: that may be an hour ago
        added = await self._jobs.store.add([replace(tale.job, due_at=due) for tale in tales])
        for tale, kept in zip(tales, added, strict=True):
            tale.known = True
            if kept.id != tale.job.id:
                reason = f"its idempotency key {kept.idempotency_key!r} belongs to another"
                self._give_up(tale, kept, reason)

    def _refused(self, tale: Tale, error: PerdureError) -> None:
        """The store will never take this."""
        log.warning("tracking: record %s is not written, or not whole: %s", tale.job.id, error)
        if tale.known and tale.end is not None and tale.end.after.result is not None:
            tale.end = replace(tale.end, after=replace(tale.end.after, result=None))
        else:
            self._buffer.drop(tale)

    # --- staying alive ----------------------------------------------------------------------

    async def _beat(self) -> None:
        await self._jobs.clock.sync()
        under_way = self._buffer.under_way
        epochs = {tale.job.id: tale.job.epoch for tale in under_way.values() if tale.known}
        mended = True
        if epochs:
            lost = await self._jobs.store.extend(self._name, epochs, self._lease)
            mended = await self._mend([under_way[job_id] for job_id in lost & under_way.keys()])
        self._beat_due = time.monotonic() + (self._lease.total_seconds() / 3 if mended else 0)

    async def _mend(self, tales: list[Tale]) -> bool:
        """What was taken for dead while no heartbeat got through goes on; what somebody else decided stands.

        Whether that was all: the rest comes at the next look, so that none takes too long.
        """
        some = tales[:MEND_BATCH]
        kept = await asyncio.gather(*(self._jobs.store.get(tale.job.tenant, tale.job.id) for tale in some))
        moves = [move for tale, job in zip(some, kept, strict=True) if (move := self._revived(tale, job))]
        if moves:
            log.info("tracking: %d records were taken for dead, and go on", len(moves))
            await self._jobs.apply(moves)
        return len(some) == len(tales)

    def _revived(self, tale: Tale, kept: Job | None) -> Transition | None:
        if kept is None:
            self._give_up(tale, tale.job, "it is gone")
        elif kept.state is not JobState.RUNNING or kept.worker != self._name:
            try:
                return transition.revive(kept, self._name, self._lease, self._jobs.stamp(self._name))
            except IllegalTransition as error:
                self._give_up(tale, kept, str(error))
        return None

    def _give_up(self, tale: Tale, kept: Job, reason: str) -> None:
        """Leave the record as it is in the store."""
        self._buffer.forget(tale)
        log.info("tracking: what else is told of record %s is not written: %s", tale.job.id, reason)
        tale.job, tale.called_off = kept, kept.state is JobState.CANCELLED
