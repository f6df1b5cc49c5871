"""The loop that runs jobs: claim, run, settle, in batches, under one heartbeat."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import socket
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

from perdure.core import outcome
from perdure.core.context import Asked, Context, ThreadContext, under_way
from perdure.core.handlers import Handler, Handlers
from perdure.core.jobs import JobService
from perdure.core.lease import Leases
from perdure.core.maintenance import Maintenance
from perdure.core.outbox import Outbox
from perdure.core.watchdog import Watchdog
from perdure.domain import transition
from perdure.domain.errors import Fatal, LeaseLost, PerdureError, RetryAfter, StoreError
from perdure.domain.job import Job
from perdure.domain.terms import Terms
from perdure.domain.transition import Transition

log = logging.getLogger(__name__)

MAX_BATCH = 1000
AHEAD = 0.1
"""Seconds of work that a worker claims ahead of its free slots."""
SLOW = 0.5
"""Seconds after which a claim was too large for its store: the next ones are half as large."""
QUIET = 0.005
"""Seconds between two claims when the first found nothing."""


class Worker:
    """Runs the jobs of the registered kinds.

    Args:
        name: told in leases and histories; default: host, process id and a number.
        kinds: run only these; None: all that are registered, also later.
        concurrency: jobs under way at once.
        lease: how long a job stays ours without a heartbeat; a dead worker's jobs wait so long.
        poll: how often to look for jobs when no hint comes.
        grace: how long a drain waits for running jobs before it gives them back.
        chores: done about every minute; every worker does them.
        shares: by tenant: how many jobs it gets in one turn; of others 1.

    Attributes:
        companions: run beside the jobs for as long as the worker works.
    """

    def __init__(
        self,
        jobs: JobService,
        handlers: Handlers,
        *,
        name: str | None = None,
        kinds: Iterable[str] | None = None,
        concurrency: int = 16,
        lease: timedelta = timedelta(seconds=30),
        poll: timedelta = timedelta(seconds=0.5),
        grace: timedelta = timedelta(seconds=30),
        chores: Sequence[Callable[[], Awaitable[object]]] = (),
        shares: Mapping[str, int] | None = None,
    ) -> None:
        self.name = name or f"{socket.gethostname()}:{os.getpid()}:{jobs.chance.getrandbits(24):06x}"
        self._jobs = jobs
        self._handlers = handlers
        self._shares = dict(shares or {})
        self._kinds = None if kinds is None else tuple(kinds)
        self._concurrency = concurrency
        self._poll = poll
        self._grace = grace
        self._leases = Leases(jobs, self.name, lease)
        self._freed = asyncio.Event()
        self._outbox = Outbox(jobs.apply, self._lost, self._refused, self._freed.set)
        self._maintenance = Maintenance(
            jobs, self.name, every=min(lease / 3, timedelta(seconds=5)), chores=chores
        )
        self.companions: list[Callable[[], Coroutine[Any, Any, None]]] = []
        self._threads: ThreadPoolExecutor | None = None
        self._queue: deque[Job] = deque()
        self._running: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop  # asking which one runs is a system call, too much for each job
        self._stopping = asyncio.Event()
        self._aborted = False
        self._busy = 0.0
        self._claimed_at = 0.0
        self._batch = MAX_BATCH

    # --- from outside -----------------------------------------------------------------------

    def stop(self) -> None:
        """Drain: claim no more, give back what is not begun, let the rest come to its end. Twice: `abort`."""
        if self._stopping.is_set():
            self.abort()
        self._stopping.set()
        self._freed.set()

    def abort(self) -> None:
        """Stop at once: running jobs are cancelled and given back."""
        self._aborted = True
        self._stopping.set()
        self._freed.set()
        for task in self._running.values():
            task.cancel()

    @property
    def active(self) -> int:
        """Jobs under way now."""
        return len(self._running)

    async def run(self) -> None:
        """Work until `stop`; returns once everything is settled."""
        log.info("worker %s runs %s", self.name, ", ".join(self._kinds or self._handlers) or "nothing yet")
        self._loop = asyncio.get_running_loop()
        async with asyncio.TaskGroup() as group:
            chores = [
                group.create_task(self._outbox.run(), name="perdure-outbox"),
                group.create_task(self._leases.run(), name="perdure-heartbeat"),
                group.create_task(self._maintenance.run(), name="perdure-maintenance"),
                group.create_task(Watchdog(self._blamed).run(), name="perdure-watchdog"),
                *(group.create_task(companion()) for companion in self.companions),
            ]
            try:
                await self._work()
                await self._drain()
            finally:
                for task in (*self._running.values(), *chores):
                    task.cancel()
                if self._threads is not None:
                    self._threads.shutdown(wait=False, cancel_futures=True)
        log.info("worker %s stopped", self.name)

    # --- claiming ---------------------------------------------------------------------------

    async def _work(self) -> None:
        with self._jobs.hints.listen() as changed:
            while not self._stopping.is_set():
                self._start_queued()
                wanted = self._appetite()
                if wanted == 0:
                    await self._freed.wait()
                    self._freed.clear()
                elif (claimed := await self._claim(wanted)) == 0:
                    await self._rest(changed)
                elif claimed < wanted:
                    self._start_queued()
                    await asyncio.sleep(0)  # the few begin before the store is asked for more

    def _appetite(self) -> int:
        """How many to claim: the free slots, and what short jobs use up in `AHEAD` seconds beyond them.

        At most a batch, and not before half of the room is free: claims come in batches under load, and while one
        batch is claimed another is run. None while results wait for the store, as they would pile up.
        """
        if self._outbox.full:
            return 0
        ahead = int(self._concurrency * AHEAD / max(self._busy, 1e-6)) if self._busy else 0
        room = min(self._concurrency + ahead, max(self._concurrency, 2 * self._batch))
        wanted = min(room - len(self._running) - len(self._queue), max(self._concurrency, self._batch))
        return wanted if wanted * 2 >= room or len(self._running) < self._concurrency else 0

    async def _claim(self, limit: int) -> int:
        kinds = self._kinds or tuple(self._handlers)
        if not kinds:
            return 0
        begun = self._claimed_at = time.monotonic()
        try:
            terms = Terms(limits=self._handlers.limits(), shares=self._shares)
            jobs = await self._jobs.store.claim(self.name, kinds, limit, self._leases.length, terms)
        except StoreError as error:
            log.warning("worker %s waits for the store: %s", self.name, error)
            return 0
        slow = time.monotonic() - begun > SLOW
        self._batch = max(1, len(jobs) // 2) if slow else min(2 * self._batch, MAX_BATCH)
        self._leases.took(jobs, begun)
        self._queue.extend(jobs)
        return len(jobs)

    async def _rest(self, changed: asyncio.Event) -> None:
        """Nothing to claim: wait for a hint, a free slot to fill, or the next look."""
        self._freed.clear()
        if self._stopping.is_set():
            return
        # Under load hints never end; one empty claim in a while is enough.
        await asyncio.sleep(max(0.0, self._claimed_at + QUIET - time.monotonic()))
        waits = [asyncio.ensure_future(changed.wait()), asyncio.ensure_future(self._freed.wait())]
        await asyncio.wait(waits, timeout=self._poll.total_seconds(), return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        changed.clear()

    # --- running ----------------------------------------------------------------------------

    def _start_queued(self) -> None:
        while self._queue and len(self._running) < self._concurrency:
            job = self._queue.popleft()
            if not self._leases.holds(job):
                continue  # it was cancelled, or went to somebody else, before its turn came
            self._running[job.id, job.epoch] = self._loop.create_task(self._execute(job))

    async def _execute(self, job: Job) -> None:
        begun = time.monotonic()
        task = self._running[job.id, job.epoch]
        context = self._leases.context(job, task, self._outbox, self._jobs.clock.now)
        move: Transition | None = None
        try:
            handler = self._handlers.get(job.kind)
            under_way.set(job)
            if self._jobs.tracing is None:
                move = await self._perform(handler, context)
            else:
                with self._jobs.tracing.running(job):
                    move = await self._perform(handler, context)
        except LeaseLost as error:
            log.warning("worker %s: LeaseLost: %s", self.name, error)
        except asyncio.CancelledError:
            if not context.cancelled:
                move = transition.release(context.job, self._jobs.stamp(self.name))
        finally:
            context.lose("its run has ended")  # a thread that outlived its timeout asks before it goes on
            self._finish(job, move, time.monotonic() - begun)

    async def _perform(self, handler: Handler, context: Context) -> Transition:
        """Call the handler; how it ended is the transition."""
        try:
            handler.fit(context, context.job.payload)
            if handler.timeout is None:
                result = await self._call(handler, context)
            else:
                async with asyncio.timeout(handler.timeout.total_seconds()):
                    result = await self._call(handler, context)
            return outcome.returned(context.job, result, self._jobs.stamp(self.name))
        except (LeaseLost, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever else a handler raises is its job's outcome
            task = asyncio.current_task()
            if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
                raise  # we were cancelled; else the handler let slip a cancellation of its own
            self._log_failure(context.job, error)
            stamp = self._jobs.stamp(self.name)
            return outcome.raised(context.job, handler, error, stamp, self._jobs.chance.random())

    async def _call(self, handler: Handler, context: Context) -> object:
        if handler.asynchronous:
            return await handler.call(context, **context.job.payload)
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._concurrency, thread_name_prefix="perdure-handler")
        bridge = ThreadContext(context, self._loop)
        within = contextvars.copy_context()
        return await self._loop.run_in_executor(
            self._threads, lambda: within.run(handler.call, bridge, **context.job.payload)
        )

    def _finish(self, job: Job, move: Transition | None, seconds: float) -> None:
        self._leases.drop(job)
        self._running.pop((job.id, job.epoch), None)
        self._busy = seconds if self._busy == 0.0 else 0.9 * self._busy + 0.1 * seconds
        if move is not None:
            self._outbox.put(move)
        self._freed.set()
        if not self._stopping.is_set():
            self._start_queued()

    def _blamed(self, task: asyncio.Task[Any] | None) -> str | None:
        """Which job's run a task is, for people."""
        job = task and self._leases.run_by(task)
        return f"job {job.id} of kind {job.kind!r}" if job else None

    def _log_failure(self, job: Job, error: BaseException) -> None:
        if isinstance(error, Asked):
            log.info("job %s asks: %s", job.id, error)
        elif isinstance(error, RetryAfter) and not error.counts:
            log.info("job %s waits for %.1f s more: %s", job.id, error.seconds, error)
        elif isinstance(error, outcome.FATAL):
            log.warning("job %s failed for good: %s", job.id, error)
        else:
            log.warning("job %s, attempt %d of %d: %r", job.id, job.attempt + 1, job.max_attempts, error)

    # --- losing, refusing, draining ---------------------------------------------------------

    def _lost(self, move: Transition) -> None:
        """A write was fenced out: somebody else has the job."""
        log.warning(
            "worker %s: LeaseLost: job %s (epoch %s) was taken away or cancelled; its %s was not written",
            self.name,
            move.after.id,
            move.epoch,
            move.entry.event if move.entry else "progress",
            extra={"job": move.after.id, "tenant": move.after.tenant},
        )
        self._leases.lose(move.after.id, move.after.epoch, "its write was fenced out")

    def _refused(self, move: Transition, error: PerdureError) -> None:
        """The store will never take this result (too large, say): the job fails with that reason."""
        if move.entry is None:
            return
        failure = outcome.describe(Fatal(f"the store refuses the result: {error}"))
        if move.after.failure != failure:
            self._outbox.put(transition.refuse(move, failure, self._jobs.stamp(self.name)))

    async def _drain(self) -> None:
        """Give back what was not begun, wait for what was, give back what takes too long."""
        for job in self._queue:
            self._leases.drop(job)
            self._outbox.put(transition.release(job, self._jobs.stamp(self.name)))
        self._queue.clear()
        if self._running and not self._aborted:
            log.info("worker %s drains %d jobs", self.name, len(self._running))
            await asyncio.wait(self._running.values(), timeout=self._grace.total_seconds())
        for task in self._running.values():
            task.cancel()
        if self._running:
            await asyncio.wait(self._running.values(), timeout=1)
        with suppress(TimeoutError):
            async with asyncio.timeout(1 if self._aborted else self._grace.total_seconds()):
                await self._outbox.flush()
