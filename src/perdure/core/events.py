"""What happens to jobs, told live: one reader of the store's log for all who follow it, in whatever process they are.

Stores keep an entry for each ended run and outside action. That a job came in, and that a run began, is told from the jobs
themselves (see `perdure.domain.timeline`); such an entry's id is made of the job's, so that it is the same wherever it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from datetime import datetime, timedelta
from typing import Final

import msgspec

from perdure.core.hints import ended, wait_for
from perdure.core.jobs import JobService
from perdure.domain.errors import CursorLost, InvalidInput, SlowFollower, StoreError
from perdure.domain.ids import parse_uuid, uuid7
from perdure.domain.job import Entry, Job
from perdure.domain.log import JobEvent, Logged
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.domain.timeline import came, claimed, story, timeline

log = logging.getLogger(__name__)

PAGE: Final = 500
FEW: Final = 20
"""Jobs of the first page of a look, which mostly finds none that is new."""
BUFFER: Final = 2000
"""Events that wait for one follower; who is slower is sent away, and may come back with its position."""
REMEMBERED: Final = 20_000
"""Ids of entries, and of jobs, that were told lately."""
LOOK: Final = timedelta(seconds=10)
"""How often one who follows one job looks at it without a hint: it may have been removed."""
PACE: Final = 0.1
"""Seconds between two looks, at least; at most a second."""
LATE: Final = timedelta(seconds=10)
"""How long after its id was made a job may be committed and still be told as new."""


class _Lately:
    """A set of bounded size that forgets the oldest."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, int] = OrderedDict()

    def add(self, key: str, value: int = 0) -> bool:
        """Whether it was not there."""
        fresh = key not in self._kept
        self._kept[key] = value
        if len(self._kept) > REMEMBERED:
            self._kept.popitem(last=False)
        return fresh

    def get(self, key: str) -> int | None:
        return self._kept.get(key)


class Reader:
    """Reads on from a position, and tells each event once, those of a job in order.

    Args:
        newest: no job that is new has an id below this.
    """

    def __init__(self, jobs: JobService, position: str, newest: str) -> None:
        self._jobs, self.position, self._newest = jobs, position, newest
        self._told, self._epochs = _Lately(), _Lately()
        self._thorough: datetime | None = None

    @property
    def mark(self) -> str:
        """Where it stands, for `at`."""
        return f"{self.position}|{self._newest}"

    @classmethod
    def at(cls, jobs: JobService, mark: str) -> Reader:
        """One that goes on where another, of whatever process, stood."""
        position, _, newest = mark.rpartition("|")
        return cls(jobs, position, newest)

    @classmethod
    async def at_the_end(cls, jobs: JobService) -> Reader:
        """One that tells what happens from now on."""
        reader = cls(jobs, (await jobs.store.entries(None, 1)).next, _horizon(jobs))
        async for _ in reader.news():
            pass
        return reader

    async def news(self, last: str = "") -> AsyncGenerator[JobEvent, None]:
        """Tell what has happened since.

        Args:
            last: of the first page, nothing up to the entry with this id.
        """
        running = await self._jobs.store.find(JobFilter(tenant=None, states=(JobState.RUNNING,)), PAGE)
        async for job in self._fresh():
            for event in self._tell(_line(job, came(job)), 0):
                yield event
        # One that began, or ended, after the others were asked for came in before that.
        fresh = [job for job in running if self._is_new(job.id)]
        more = True
        while more:
            page = await self._jobs.store.entries(self.position, PAGE)
            strangers = [line for line in page.lines if self._is_new(line.job_id)]
            found = [await self._jobs.store.get(line.tenant, line.job_id) for line in strangers]
            for job in (*fresh, *(one for one in found if one is not None)):
                for event in self._tell(_line(job, came(job)), 0):
                    yield event
            fresh = []
            events = [event for line in page.lines for event in self._of_line(line)]
            known = next((n for n, event in enumerate(events) if event.entry.id == last), -1)
            for event in events[known + 1 :]:
                yield event
            self.position, more, last = page.next, page.more, ""
        # Of a later run only once the end of the one before was told.
        for job in running:
            if (self._epochs.get(job.id) or 0) >= job.epoch - 1:
                for event in self._tell(_line(job, timeline(job, ())[-1]), job.epoch):
                    yield event

    def _is_new(self, job_id: str) -> bool:
        return job_id >= self._newest and self._told.get(job_id) is None

    def _of_line(self, line: Logged) -> Iterator[JobEvent]:
        if line.entry.started_at is not None:
            began = msgspec.structs.replace(line, entry=claimed(line.job_id, line.entry))
            yield from self._tell(began, line.entry.epoch)
        yield from self._tell(line, line.entry.epoch)

    def _tell(self, line: Logged, epoch: int) -> Iterator[JobEvent]:
        if self._told.add(line.entry.id):
            self._epochs.add(line.job_id, epoch)
            position = f"{self.mark}|{line.entry.id}"
            yield JobEvent(
                position=position, tenant=line.tenant, job_id=line.job_id, kind=line.kind, entry=line.entry
            )

    async def _fresh(self) -> AsyncIterator[Job]:
        """Jobs that came in lately, newest first.

        A look ends where all have been told; now and then one goes as far back as a job may be committed late.
        """
        now = self._jobs.clock.now()
        thorough = self._thorough is None or now - self._thorough >= LATE / 2
        horizon, size, after, more = _horizon(self._jobs), FEW, None, True
        while more:
            page = await self._jobs.store.find(JobFilter(tenant=None), size, after)
            fresh = [job for job in page if self._is_new(job.id)]
            for job in fresh:
                yield job
            more = len(page) == size and page[-1].id >= self._newest and (thorough or bool(fresh))
            after, size = page[-1].id if page else None, PAGE
        if thorough:
            self._thorough, self._newest = now, horizon


class _Follower:
    """A bounded queue of one who follows."""

    def __init__(self, tenant: str | None) -> None:
        self.tenant = tenant
        self.queue: asyncio.Queue[JobEvent] = asyncio.Queue(BUFFER)
        self.lost = False

    def give(self, event: JobEvent) -> None:
        if self.tenant in (None, event.tenant) and not self.lost:
            try:
                self.queue.put_nowait(event)
            except asyncio.QueueFull:
                self.lost = True


class EventLog:
    """All events of a store's jobs.

    Args:
        jobs: its service.
    """

    def __init__(self, jobs: JobService) -> None:
        self._jobs = jobs
        self._followers: set[_Follower] = set()
        self._task: asyncio.Task[None] | None = None
        self._begun = asyncio.Event()

    async def close(self) -> None:
        """Stop reading; who still follows hears no more."""
        if self._task is not None:
            await ended(self._task)
            self._task = None

    async def follow(self, tenant: str | None, after: str | None = None) -> AsyncGenerator[JobEvent, None]:
        """Yield the events of a tenant's jobs (None: of all), those of one job in order, for ever.

        Args:
            after: the position of an event, of whatever process: nothing that came after it is left out, though what
                happened shortly before it may come again (`entry.id` tells). None: from now on.

        Raises:
            CursorLost: the log does not go back so far.
            InvalidInput: it is no position.
            SlowFollower: more than `BUFFER` events wait.
        """
        follower = _Follower(tenant)
        await self._join(follower)
        try:
            seen = _Lately()
            if after is not None:
                async for event in self._missed(tenant, after):
                    seen.add(event.entry.id)
                    yield event
            while not (follower.lost and follower.queue.empty()):
                event = await follower.queue.get()
                if seen.add(event.entry.id):
                    yield event
            raise SlowFollower(
                f"more than {BUFFER:,} events waited; follow again from the last one's position"
            )
        finally:
            self._followers.discard(follower)

    async def follow_job(
        self, job_id: str, *, tenant: str, after: str | None = None
    ) -> AsyncGenerator[JobEvent, None]:
        """Yield the events of one job, from its beginning, up to its end.

        Args:
            after: the position of the last event that is known already.

        Raises:
            NotFound: there is no such job of this tenant.
        """
        last = None if after is None else after.rpartition("|")[2]
        follower = _Follower("")  # no tenant's: the reader's hint at each event is all that is wanted of it
        await self._join(follower)
        try:
            async for job in self._jobs.watch(job_id, tenant=tenant, poll=LOOK):
                entries = story(job, await self._jobs.store.history(tenant, job.id))
                for entry in _after(entries, last):
                    last = entry.id
                    yield JobEvent(
                        position=f"||{entry.id}", tenant=tenant, job_id=job.id, kind=job.kind, entry=entry
                    )
        finally:
            self._followers.discard(follower)

    @staticmethod
    def check_position(after: str) -> tuple[str, str, str]:
        """A position's parts: where the log goes on, the newest job then, the last entry that was told.

        Raises:
            InvalidInput: it is none.
        """
        try:
            start, newest, last = after.rsplit("|", 2)
            return start, parse_uuid(newest, "position"), last
        except ValueError:
            raise InvalidInput(f"{after[:100]!r} is no position; give that of an event, as it came") from None

    # --- behind it --------------------------------------------------------------------------

    async def _join(self, follower: _Follower) -> None:
        self._followers.add(follower)
        if self._task is None or self._task.done():
            self._begun = asyncio.Event()
            self._task = asyncio.create_task(self._tail(), name="perdure-events")
        await self._begun.wait()

    async def _missed(self, tenant: str | None, after: str) -> AsyncIterator[JobEvent]:
        """What has happened since a position."""
        start, newest, last = self.check_position(after)
        try:
            async for event in Reader(self._jobs, start, newest).news(last):
                if tenant in (None, event.tenant):
                    yield event
        except ValueError:
            raise InvalidInput(f"{after[:100]!r} is no position; give that of an event, as it came") from None

    async def _tail(self) -> None:
        """Read on for as long as anybody follows."""
        reader = None
        with self._jobs.hints.listen() as changed:
            while self._followers:
                try:
                    if reader is None:
                        reader = await Reader.at_the_end(self._jobs)
                        self._begun.set()
                    number = 0
                    async for event in reader.news():
                        for follower in self._followers:
                            follower.give(event)
                        self._jobs.hints.ring(event.job_id, work=False)
                        number += 1
                        if number % max(1, BUFFER // 4) == 0:
                            await asyncio.sleep(0)  # let them take what there is
                except CursorLost as error:
                    log.warning("live events have a gap: %s", error)
                    reader = None
                except StoreError as error:
                    log.warning("live events wait for the store: %s", error)
                await asyncio.sleep(PACE)
                await wait_for(changed, 1 - PACE)


def _horizon(jobs: JobService) -> str:
    return uuid7(jobs.clock.now() - LATE, 0)


def _line(job: Job, entry: Entry) -> Logged:
    return Logged(tenant=job.tenant, job_id=job.id, kind=job.kind, entry=entry)


def _after(entries: list[Entry], last: str | None) -> list[Entry]:
    places = [place for place, entry in enumerate(entries) if entry.id == last]
    return entries[places[0] + 1 :] if places else entries
