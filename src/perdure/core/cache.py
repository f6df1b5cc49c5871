"""Bounded memory in front of any job store, for readers that ask for the same jobs again and again."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final, cast

import msgspec

from perdure.core.clock import StoreClock
from perdure.core.hints import ended
from perdure.domain.errors import StoreError
from perdure.domain.job import Entry, Job
from perdure.domain.log import LogPage
from perdure.domain.query import JobFilter, Stats
from perdure.domain.record import Record
from perdure.domain.terms import PLAIN, Terms
from perdure.domain.transition import Transition
from perdure.ports.job_store import Capabilities, Change, JobStore, JoiningJobStore
from perdure.ports.key_value import KeyValueStore

log = logging.getLogger(__name__)

OVERHEAD: Final = 600
"""Bytes that an entry takes beside its job, about."""
TIDY: Final = 30.0
"""Seconds between two looks for entries that are too old to be given out."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Job).decode


class CacheStats(Record):
    """How well a cache does, since it was opened.

    Attributes:
        hits, misses: `get` calls answered from memory, and by the store.
        entries, size: jobs held now, and about how many bytes they take.
        oldest: seconds: the greatest age of an answer about an unfinished job that came from memory.
    """

    hits: int
    misses: int
    entries: int
    size: int
    oldest: float

    @property
    def hit_ratio(self) -> float:
        """The part of `get` calls that the store did not see, 0.0 to 1.0."""
        return self.hits / max(1, self.hits + self.misses)


class _Kept:
    """A job as it was read: encoded, so that each caller gets one of its own and the size is known."""

    __slots__ = ("at", "body", "good_until", "moving", "tenant")

    def __init__(self, job: Job, body: bytes, at: float, good_until: float) -> None:
        self.tenant = job.tenant
        self.body = body
        self.at = at
        self.good_until = good_until
        self.moving = not job.finished


class _Reading:
    """A job on its way from the store. It is kept only if no change is heard of before it lands."""

    __slots__ = ("at", "task", "tenant")

    def __init__(self, tenant: str, at: float) -> None:
        self.tenant = tenant
        self.at = at
        self.task: asyncio.Task[bytes | None] | None = None


class CachedJobStore:
    """A `JobStore` in front of another: `get` is answered from memory where that is fresh enough.

    * An answer about an unfinished job is never older than `staleness`, counted from before the store was asked,
      whatever the change feed does: hints may be late or lost, and only make answers fresher.
    * A finished job is kept for `ttl` at most, and never shown past its expiry. A hint or a write from here drops it
      at once; where a store has no feed, another process that requeues or deletes it may go unnoticed so long.
    * What was written through this object is seen by every read through it that begins after the write returned.

    All else goes to the store: a page of jobs costs one query and so is always as fresh as the store.

    Args:
        megabytes: bounds the memory; the jobs that were not asked for longest go first.
        staleness: zero: unfinished jobs are always read from the store.
        monotonic: seconds that never go back.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        megabytes: float = 64,
        staleness: timedelta = timedelta(seconds=1),
        ttl: timedelta = timedelta(minutes=60),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._limit = megabytes * 1_000_000
        self._staleness = staleness.total_seconds()
        self._ttl = ttl.total_seconds()
        self._monotonic = monotonic
        self._clock = StoreClock(store.now, monotonic)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._size = 0
        self._readings: dict[str, _Reading] = {}
        self._hits = self._misses = 0
        self._oldest = 0.0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def capabilities(self) -> Capabilities:
        """Those of the store behind it."""
        return self._store.capabilities

    @property
    def values(self) -> KeyValueStore:
        """Those of the store behind it."""
        return self._store.values

    @property
    def cache_stats(self) -> CacheStats:
        """How well it does."""
        return CacheStats(
            hits=self._hits,
            misses=self._misses,
            entries=len(self._kept),
            size=self._size,
            oldest=self._oldest,
        )

    async def setup(self) -> None:
        """Set up the store, and begin to listen to its changes."""
        await self._store.setup()
        await self._clock.sync()
        if not self._tasks:
            self._tasks = [
                asyncio.create_task(self._listen(), name="perdure-cache-feed"),
                asyncio.create_task(self._tidy(), name="perdure-cache-tidy"),
            ]

    async def close(self) -> None:
        """Forget everything and close the store."""
        await ended(*self._tasks)
        self._tasks = []
        self._forget()
        await self._store.close()

    async def now(self) -> datetime:
        return await self._store.now()

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        """See `JobStore.get`. Many who ask for the same job at once ask the store once."""
        now = self._monotonic()
        kept = self._kept.get(job_id)
        if kept is not None and kept.tenant == tenant and now < kept.good_until:
            self._kept.move_to_end(job_id)
            self._hits += 1
            if kept.moving and now - kept.at > self._oldest:
                self._oldest = now - kept.at
            return _decode(kept.body)
        self._misses += 1
        reading = self._readings.get(job_id)
        if reading is not None and reading.tenant != tenant:
            return await self._store.get(tenant, job_id)
        if reading is None or reading.task is None or now - reading.at >= self._staleness:
            reading = self._begin(tenant, job_id)
            reading.task = asyncio.create_task(self._read(reading, job_id))
        # Shielded: one caller who gives up must not take the answer from the others.
        body = await asyncio.shield(reading.task)
        return None if body is None else _decode(body)

    async def _read(self, reading: _Reading, job_id: str) -> bytes | None:
        job = None
        try:
            job = await self._store.get(reading.tenant, job_id)
        finally:
            if job is None and self._readings.get(job_id) is reading:
                del self._readings[job_id]
        return None if job is None else self._land(reading, job, job_id)

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        return await self._store.find(query, limit, after)

    async def count(self, query: JobFilter) -> int:
        return await self._store.count(query)

    async def stats(self, tenant: str | None) -> Stats:
        return await self._store.stats(tenant)

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        return await self._store.tenants(limit, after)

    async def expired(self, limit: int) -> list[Job]:
        return await self._store.expired(limit)

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        return await self._store.history(tenant, job_id)

    async def entries(self, after: str | None, limit: int) -> LogPage:
        return await self._store.entries(after, limit)

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job], *, connection: object | None = None) -> list[Job]:
        """See `JobStore.add`. The jobs are kept as the store has them: whoever adds one soon asks for it.

        With a connection (see `JoiningJobStore`) nothing is kept: there are no such jobs before its commit.
        """
        if connection is not None:
            return await cast("JoiningJobStore", self._store).add(jobs, connection=connection)
        readings = {job.id: self._begin(job.tenant, job.id) for job in jobs}
        try:
            stored = await self._store.add(jobs)
        except BaseException:
            self._drop(readings)
            raise
        for job in stored:
            if (reading := readings.get(job.id)) is not None and reading.tenant == job.tenant:
                self._land(reading, job, job.id)
        return stored

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        jobs = await self._store.claim(worker, kinds, limit, lease, terms)
        self._drop(job.id for job in jobs)
        return jobs

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        try:
            return await self._store.extend(worker, epochs, lease)
        finally:
            self._drop(epochs)

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        """See `JobStore.apply`. The jobs are dropped, also after a conflict: so the next decision sees what is there."""
        try:
            return await self._store.apply(transitions)
        finally:
            self._drop(move.after.id for move in transitions)

    async def delete(self, tenant: str, job_id: str) -> bool:
        try:
            return await self._store.delete(tenant, job_id)
        finally:
            self._drop([job_id])

    async def purge(self, limit: int) -> int:
        """See `JobStore.purge`. What it removes had expired, and so was hidden here, too."""
        return await self._store.purge(limit)

    async def changes(self) -> AsyncIterator[Change]:
        """See `JobStore.changes`. A job is dropped before its hint is passed on."""
        async for change in self._store.changes():
            if change.job_id is None:
                self._forget()
            else:
                self._drop([change.job_id])
            yield change

    # --- keeping ----------------------------------------------------------------------------

    def _begin(self, tenant: str, job_id: str) -> _Reading:
        reading = self._readings[job_id] = _Reading(tenant, self._monotonic())
        return reading

    def _land(self, reading: _Reading, job: Job, job_id: str) -> bytes:
        """The store answered; keep the answer, unless the job changed while it was on its way."""
        body = _encode(job)
        if self._readings.get(job_id) is not reading:
            return body
        del self._readings[job_id]
        good_until = reading.at + (self._ttl if job.finished else self._staleness)
        if job.expires_at is not None:
            left = (job.expires_at - self._clock.now()).total_seconds()
            good_until = min(good_until, self._monotonic() + left)
        self._remove(job_id)
        self._kept[job_id] = _Kept(job, body, reading.at, good_until)
        self._size += len(body) + OVERHEAD
        while self._size > self._limit:
            self._remove(next(iter(self._kept)))
        return body

    def _drop(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            self._remove(job_id)
            self._readings.pop(job_id, None)

    def _remove(self, job_id: str) -> None:
        if (kept := self._kept.pop(job_id, None)) is not None:
            self._size -= len(kept.body) + OVERHEAD

    def _forget(self) -> None:
        """Anything may have changed; a finished job may have been requeued."""
        self._kept.clear()
        self._readings.clear()
        self._size = 0

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self.changes():
                    pass
                return
            except StoreError as error:
                log.warning(
                    "the change feed broke off; unfinished jobs are kept %s s: %s", self._staleness, error
                )
            await asyncio.sleep(1)
            self._forget()  # what happened meanwhile is not told

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY)
            with suppress(StoreError):
                await self._clock.refresh()
            now = self._monotonic()
            for job_id in [job_id for job_id, kept in self._kept.items() if kept.good_until <= now]:
                self._remove(job_id)
