"""Copies one store into another while both are in use, by nothing but the port's primitives.

Each job goes one of two ways, and either may be repeated at any point of it:

* A *finished* job is copied as it is, with its history.
* A *pending or waiting* one moves: it is first ended in the source (`transition.move_away`, guarded by its version, so
  that a worker or a user who is quicker wins), then written into the target as it was. In between it is in neither
  line, so no two workers ever have it; the record in the source holds all that the target needs, so that a copy
  which died there is taken up by the next.

A *running* one is waited for. Producers that still add to the source are followed, until nothing unfinished is left.

A job and its history are written by `add` and `apply`: it comes in at an older version, where no worker sees it, and each
entry takes it one version on. The last one makes it what it is.

While a copy is under way, and after one that died, the target has a job that says so (`mark_of`), which nobody runs.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Final

import msgspec
from msgspec.structs import replace

from perdure.core.jobs import JobService
from perdure.core.value_transfer import ValuesReport, ValueTransfer
from perdure.domain import transition
from perdure.domain.errors import InvalidInput
from perdure.domain.ids import uuid5
from perdure.domain.job import Entry, Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Record
from perdure.domain.state import Event, JobState
from perdure.domain.transition import Transition
from perdure.ports.job_store import JobStore

PAGE: Final = 500
READERS: Final = 16
"""Histories that are asked for at once."""

ACTOR: Final = "transfer"
MARK: Final = "perdure.copy"
"""The kind, and the tenant, of the job that stands in the target as long as a copy into it is not known to be whole."""
_GRACE: Final = timedelta(minutes=1)


class TenantReport(Record):
    """What a tenant has in both stores.

    Attributes:
        source, target: jobs of the source, and those of them that the target has.
        went_on: of these, how many have changed in the target since they came there.
        checksum: over the others, which must be equal in both: hexadecimal, of the target.
        differing: ids that are missing in the target or differ there, at most 20.
    """

    source: int
    target: int
    went_on: int
    checksum: str
    differing: tuple[str, ...] = ()


class TransferReport(Record):
    """What a transfer did, or would do.

    Attributes:
        copied: finished jobs written into the target. moved: unfinished ones that go on there.
        known: jobs that were there already. keyed: ids left out since another job there has their idempotency key.
        values: what both have of small values (API keys, subscriptions).
    """

    copied: int
    moved: int
    known: int = 0
    keyed: tuple[str, ...] = ()
    tenants: dict[str, TenantReport] = msgspec.field(default_factory=dict)
    values: ValuesReport = ValuesReport(source=0, target=0)

    @property
    def equal(self) -> bool:
        """Whether the target has all that the source has."""
        return not self.values.differing and not any(report.differing for report in self.tenants.values())


Carry = Callable[[Job], Awaitable[None]]
"""Brings along what a job refers to, before the job is written into the target. May be called again for the same job."""


class Transfer:
    """One copy from a store into another.

    Args:
        source: its service; workers may run on it.
        target: set up; workers may run on it, too.
        origin, to: the names of source and target, as people should read them; no password in them.
        carry: see `Carry`.
        report: told how many jobs were looked at.
    """

    def __init__(
        self,
        source: JobService,
        target: JobStore,
        to: str,
        *,
        origin: str,
        carry: Carry,
        report: Callable[[int], None] = lambda _seen: None,
    ) -> None:
        self._source = source
        self._target = target
        self._to = to
        self._origin = origin
        self._carry = carry
        self._report = report
        self._counts: Counter[str] = Counter()
        self._keyed: set[str] = set()
        self._readers = asyncio.Semaphore(READERS)

    async def run(self) -> TransferReport:
        """Copy and move everything; returns once the source has nothing unfinished, and both were compared.

        Raises:
            InvalidInput: a copy into the source has not come to its end, so that what is there is not whole.
        """
        for unended in await self._source.store.find(JobFilter(tenant=MARK), 1):
            raise InvalidInput(
                f"{self._origin} cannot be copied yet: the copy into it from {unended.payload['from']} has not come to "
                f"its end; run that again (perdure store copy {unended.payload['from']} {self._origin}), or, to do "
                f"without the rest of it, perdure jobs delete {unended.id} --tenant {MARK}"
            )
        [mark] = await self._target.add([mark_of(self._origin, self._to, await self._target.now())])
        await self._copy_finished()
        while await self._move_unfinished():
            await self._source.settle_overdue(ACTOR)
            await asyncio.sleep(self._source.poll.total_seconds() / 5)
        await self._copy_finished()
        values = ValueTransfer(
            self._source.store.values, self._target.values, origin=self._origin, to=self._to
        )
        report = replace(self._told(await self.compare()), values=await values.run())
        if report.equal:
            await self._target.delete(mark.tenant, mark.id)
        return report

    def _told(self, tenants: dict[str, TenantReport]) -> TransferReport:
        copied, moved = self._counts["copied"], self._counts["moved"]
        known = sum(each.target for each in tenants.values()) - copied - moved
        keyed = tuple(sorted(self._keyed))
        return TransferReport(copied=copied, moved=moved, known=max(0, known), keyed=keyed, tenants=tenants)

    # --- the two ways -----------------------------------------------------------------------

    async def _copy_finished(self) -> None:
        """Copy what has ended; among it are jobs whose move a former copy began and did not live to finish."""
        seen = 0
        async for after, page in self._pages(JobFilter(tenant=None)):
            await self._write([job for job in page if job.finished], after)
            seen += len(page)
            self._report(seen)

    async def _move_unfinished(self) -> int:
        """Move what is pending or waiting; how many unfinished jobs there still were."""
        found = 0
        idle = JobFilter(tenant=None, states=(JobState.PENDING, JobState.WAITING))
        async for after, page in self._pages(idle):
            found += len(page)
            moves = [transition.move_away(job, self._source.stamp(ACTOR), self._to) for job in page]
            outcomes = await self._source.apply(moves)
            ended = [move.after for move, done in zip(moves, outcomes, strict=True) if done]
            await self._write(ended, after)
        return found + await self._source.count(JobFilter(tenant=None, states=(JobState.RUNNING,)))

    async def _pages(self, query: JobFilter) -> AsyncIterator[tuple[str | None, list[Job]]]:
        """Pages of the source, each with the cursor that gave it."""
        after = None
        while page := await self._source.store.find(query, PAGE, after):
            yield after, page
            after = page[-1].id

    # --- writing ----------------------------------------------------------------------------

    async def _write(self, ended: Sequence[Job], after: str | None) -> None:
        """Let the target have these jobs of a page, which have ended in the source or were moved away."""
        there = await self._there(ended, after)
        new = [job for job in ended if job.id not in there or there[job.id].version < job.version]
        for job in new:
            await self._carry(job)
        histories = await self._histories(self._source.store, new)
        await self._write_new(
            [(as_in_target(job, entries), entries) for job, entries in zip(new, histories, strict=True)]
        )

    async def _there(self, page: Sequence[Job], after: str | None) -> dict[str, Job]:
        """Those that the target has under the ids of this page, which came by the cursor `after`."""
        wanted, found = {job.id for job in page}, list[Job]()
        while wanted and (part := await self._target.find(JobFilter(tenant=None), PAGE, after)):
            found += [job for job in part if job.id in wanted]
            after = part[-1].id
            if after <= page[-1].id:
                break
        return {job.id: job for job in found}

    async def _write_new(self, copies: Sequence[tuple[Job, list[Entry]]]) -> None:
        stored = await self._target.add([first_of(job, entries) for job, entries in copies])
        moves: list[Transition] = []
        for (job, entries), there in zip(copies, stored, strict=True):
            if there.id != job.id:
                self._keyed.add(job.id)
                continue
            if there.version < job.version and not _half_written(there, job, entries):
                await self._replace(job, entries)
            moves += steps_to(job, entries)
            self._counts["copied" if job.finished else "moved"] += 1
        # A conflict is a step that stands already, or a job that has gone on since; `compare` looks at the outcome.
        await self._target.apply(moves)

    async def _replace(self, job: Job, entries: Sequence[Entry]) -> None:
        """The target has the job from before it was sent round again in the source."""
        await self._target.delete(job.tenant, job.id)
        await self._target.add([first_of(job, entries)])

    async def _histories(self, store: JobStore, jobs: Sequence[Job]) -> list[list[Entry]]:
        async def history(job: Job) -> list[Entry]:
            async with self._readers:
                return await store.history(job.tenant, job.id)

        return await asyncio.gather(*map(history, jobs))

    # --- comparing --------------------------------------------------------------------------

    async def compare(self) -> dict[str, TenantReport]:
        """Compare each job of the source with the target's, tenant by tenant."""
        tally: defaultdict[str, _Tally] = defaultdict(_Tally)
        async for after, page in self._pages(JobFilter(tenant=None)):
            there = await self._there(page, after)
            now = await self._source.store.now()
            for job in page:
                tally[job.tenant].source += 1
                if job.id not in there and job.id not in self._keyed and not _expiring(job, now):
                    tally[job.tenant].differ(job.id)
            both = [job for job in page if job.id in there]
            ours = await self._histories(self._source.store, both)
            theirs = await self._histories(self._target, [there[job.id] for job in both])
            for job, entries, other in zip(both, ours, theirs, strict=True):
                tally[job.tenant].compare(as_in_target(job, entries), entries, there[job.id], other)
        return {tenant: each.report() for tenant, each in sorted(tally.items())}


class _Tally:
    def __init__(self) -> None:
        self.source = self.target = self.went_on = self._sum = 0
        self._differing: list[str] = []

    def differ(self, job_id: str) -> None:
        if len(self._differing) < 20:
            self._differing.append(job_id)

    def compare(self, job: Job, entries: list[Entry], there: Job, other: list[Entry]) -> None:
        self.target += 1
        if there.version > job.version:
            self.went_on += 1
            if not {entry.id for entry in entries} <= {entry.id for entry in other}:
                self.differ(job.id)
        elif digest(job, entries) != (found := digest(there, other)):
            self.differ(job.id)
        else:
            self._sum = (self._sum + found) % 2**64

    def report(self) -> TenantReport:
        return TenantReport(
            source=self.source,
            target=self.target,
            went_on=self.went_on,
            checksum=f"{self._sum:016x}",
            differing=tuple(self._differing),
        )


def mark_of(origin: str, to: str, now: datetime) -> Job:
    """The job that says in the store `to` that a copy from `origin` is under way, or died; the same for every try."""
    return Job(
        id=uuid5(MARK, origin),
        tenant=MARK,
        kind=MARK,
        state=JobState.PENDING,
        due_at=None,
        created_at=now,
        updated_at=now,
        ttl=None,
        payload={"from": origin, "to": to},
    )


def as_in_target(job: Job, entries: Sequence[Entry]) -> Job:
    """What a job of the source is in the target: one that was moved is there as it was before."""
    moves = [entry for entry in entries if entry.event is Event.MOVED]
    return transition.moved_in(job, moves[-1]) if transition.moved(job) and moves else job


def first_of(job: Job, entries: Sequence[Entry]) -> Job:
    """The job as it comes in, so many versions younger as it has entries; unfinished, it waits for them unseen."""
    if not entries:
        return job
    young = replace(job, version=job.version - len(entries))
    return young if job.finished else replace(young, state=JobState.PENDING, due_at=None)


def steps_to(job: Job, entries: Sequence[Entry]) -> list[Transition]:
    """One step for each entry; the last one makes the job what it is."""
    first = first_of(job, entries)
    steps = []
    for number, entry in enumerate(entries, 1):
        last = number == len(entries)
        after = replace(job if last else first, version=first.version + number)
        steps.append(
            Transition(before=first.state, after=after, epoch=None, version=after.version - 1, entry=entry)
        )
    return steps


def digest(job: Job, entries: Sequence[Entry]) -> int:
    """A number that differs where anything of the job or its history differs; 64 bits of BLAKE2b."""
    body = msgspec.msgpack.encode((job, sorted(entries, key=lambda entry: entry.id)), order="deterministic")
    return int.from_bytes(hashlib.blake2b(body, digest_size=8).digest())


def _half_written(there: Job, job: Job, entries: Sequence[Entry]) -> bool:
    """Whether what the target has is what a copy that died left there."""
    first = first_of(job, entries)
    return (
        first.version <= there.version < job.version
        and there.state is first.state
        and (there.epoch == job.epoch)
    )


def _expiring(job: Job, now: datetime) -> bool:
    """Whether the target may have forgotten the job by now, since its record was to go about now."""
    return job.expires_at is not None and job.expires_at - _GRACE < now
