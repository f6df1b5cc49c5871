"""`JobService`: the only door to a job store."""

from __future__ import annotations

import logging
import os
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Protocol, cast

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from perdure.core.answers import check_answer
from perdure.core.clock import StoreClock
from perdure.core.context import reported
from perdure.core.hints import Hints, wait_for
from perdure.domain import transition
from perdure.domain import validation as check
from perdure.domain.errors import (
    IdempotencyConflict,
    IllegalTransition,
    InvalidInput,
    NotFound,
    StoreError,
    WaitTimeout,
)
from perdure.domain.ids import parse_uuid, uuid7
from perdure.domain.job import MAX_PAYLOAD, MAX_TOGETHER, Entry, Job, NewJob, Progress
from perdure.domain.query import JobFilter, Page, Stats
from perdure.domain.record import Json, Record
from perdure.domain.state import TERMINAL, Event, JobState
from perdure.domain.timeline import timeline
from perdure.domain.transition import Stamp, Transition
from perdure.ports.job_store import JobStore, JoiningJobStore

log = logging.getLogger(__name__)

_CHANCE = random.Random()  # noqa: S311  # ids are no secrets, and the system's own costs a call of it for each
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_CHANCE.seed)

MAX_PAGE = 1000
DEFAULT_ATTEMPTS = 3
_TRIES = 50
"""How often a decision is taken anew because the job changed meanwhile; a live job changes a few times a second."""


HERE: Final = "submission"
"""The worker of what is done when it comes in."""
LEASE: Final = timedelta(seconds=30)


class Done(Record):
    """What came of a job before it was added."""

    result: Json
    progress: Progress


class Tracing(Protocol):
    """Makes spans of what happens to jobs, for whoever traces."""

    def submitting(self, number: int) -> AbstractContextManager[dict[str, str]]:
        """Around the adding of so many jobs; gives labels that they are to carry."""
        ...

    def running(self, job: Job) -> AbstractContextManager[None]:
        """Around a run of the job."""
        ...

    def span(self, name: str) -> AbstractContextManager[object]:
        """Around a step of a run."""
        ...


class JobService:
    """Stamps time and ids, decides by the domain's transitions, repeats what lost a race, tells listeners.

    Args:
        store: set up and open.
        poll: how long a wait relies on hints alone.
        chance: randomness for ids, which are unique and no secrets, and for jitter.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        poll: timedelta = timedelta(seconds=0.5),
        chance: random.Random | None = None,
    ) -> None:
        self.store = store
        self.clock = StoreClock(store.now)
        self.hints = Hints(store)
        self.poll = poll
        self.chance = chance or _CHANCE
        self.attempts_of: Callable[[str], int] = lambda _kind: DEFAULT_ATTEMPTS
        """Tells a kind's `max_attempts` where a new job does not."""
        self.limited: Callable[[str], bool] = lambda _kind: False
        """Tells whether a kind has a limit, so that the end of a run makes room for another."""
        self.listeners: list[Callable[[Transition], None]] = []
        """Called after each transition that this process wrote, in order."""
        self.tracing: Tracing | None = None
        self.tally: Counter[str] = Counter()
        """What has no transition: `lost`, jobs that workers here lost to somebody else while they ran."""

    async def start(self) -> None:
        """Read the store's clock; call it once, before anything else."""
        await self.clock.sync()

    async def close(self) -> None:
        """Stop listening for changes; the store stays open."""
        await self.hints.close()

    # --- coming in --------------------------------------------------------------------------

    async def add(self, new: NewJob, *, connection: object | None = None) -> Job:
        """Add one job; see `add_many`."""
        return (await self.add_many([new], connection=connection))[0]

    async def add_many(
        self,
        new: Sequence[NewJob],
        *,
        same: Callable[[Job, Job], bool] | None = None,
        connection: object | None = None,
        done: Mapping[int, Done] | None = None,
    ) -> list[Job]:
        """Add jobs, all or none, durable on return. Repeating it with the same idempotency keys adds nothing.

        Args:
            same: whether two jobs under one key ask for the same; default: equal kind and payload.
            connection: the caller's own, with a transaction open that the jobs become part of: they are durable, and
                anybody sees them, once it commits. See `perdure.ports.job_store.JoiningJobStore`.
            done: what came of those whose work is done already, by their place in `new`: they come in as running here, and are
                completed at once. Whatever dies in between, a worker does them again when the lease of a run is over.

        Raises:
            InvalidInput: a payload is over `MAX_PAYLOAD` bytes, or all are over `MAX_TOGETHER`; the connection does not fit, or the store takes none.
            IdempotencyConflict: a key was used before for another kind or payload. The others are added.
        """
        await self.clock.refresh()
        with nullcontext({}) if self.tracing is None else self.tracing.submitting(len(new)) as carried:
            jobs = self._make_together(new, carried)
            for place, what in (done or {}).items():
                jobs[place] = _underway(jobs[place], what)
            stored = await (self.store.add(jobs) if connection is None else self._join(jobs, connection))
        for made, kept in zip(jobs, stored, strict=True):
            if made.tenant != kept.tenant:
                raise InvalidInput(f"the job id {made.id} is taken; give every job a new UUIDv7")
            if made.id != kept.id and not (same or _same_work)(made, kept):
                raise IdempotencyConflict(
                    f"idempotency key {made.idempotency_key!r} belongs to job {kept.id}, which has another "
                    "kind or payload; use a new key for new content"
                )
            if connection is None and kept.state is not JobState.RUNNING:
                self.hints.ring(kept.id)
        return await self._finish(jobs, stored, done) if done else stored

    async def _finish(
        self, made: Sequence[Job], stored: Sequence[Job], done: Mapping[int, Done]
    ) -> list[Job]:
        """Complete those of the jobs whose work is done, and that were not there before."""
        moves = {
            place: transition.complete(stored[place], what.result, self.stamp(HERE))
            for place, what in done.items()
            if made[place].id == stored[place].id and stored[place].state is JobState.RUNNING
        }
        try:
            stands = await self.apply(list(moves.values()))
        except StoreError as error:
            log.warning("%d jobs whose work is done will be run once more: %s", len(moves), error)
            return list(stored)
        ended = {
            place: replace(move.after, version=move.after.version + 1)  # as the store counts
            for (place, move), stood in zip(moves.items(), stands, strict=True)
            if stood
        }
        return [ended.get(place, job) for place, job in enumerate(stored)]

    async def _join(self, jobs: Sequence[Job], connection: object) -> list[Job]:
        if not self.store.capabilities.joins:
            raise InvalidInput(
                "this store cannot join a transaction of the caller's; keep the jobs in the PostgreSQL database of your "
                "own rows, or leave `connection` out: commit first, then submit with an idempotency_key"
            )
        return await cast("JoiningJobStore", self.store).add(jobs, connection=connection)

    def _make_together(self, new: Sequence[NewJob], carried: Mapping[str, str]) -> list[Job]:
        jobs, size = list[Job](), 0
        for spec in new:
            size += _payload_size(spec)
            if size > MAX_TOGETHER:
                raise InvalidInput(
                    f"the payloads of the first {len(jobs) + 1:,} of {len(new):,} jobs have {size:,} bytes together; at most "
                    f"{MAX_TOGETHER:,} can be added in one call: add them in several"
                )
            jobs.append(self._make(spec, carried))
        return jobs

    def make(self, new: NewJob, carried: Mapping[str, str] | None = None) -> Job:
        """The job that `add` would write.

        Args:
            carried: labels beside its own.

        Raises:
            InvalidInput: its payload is over `MAX_PAYLOAD` bytes.
        """
        _payload_size(new)
        return self._make(new, carried or {})

    def _make(self, new: NewJob, carried: Mapping[str, str]) -> Job:
        now = self.clock.now()
        return Job(
            id=new.id or uuid7(now, self.chance.getrandbits(64)),
            tenant=new.tenant,
            kind=new.kind,
            state=JobState.PENDING,
            due_at=now if new.run_at is None else new.run_at.astimezone(UTC),
            created_at=now,
            updated_at=now,
            priority=new.priority,
            max_attempts=new.max_attempts or self.attempts_of(new.kind),
            max_rescues=new.max_rescues,
            idempotency_key=new.idempotency_key,
            unique_for=new.unique_for,
            user_id=new.user_id,
            document_id=new.document_id,
            created_by=new.created_by,
            ttl=new.ttl,
            payload=new.payload,
            labels={**carried, **new.labels} if carried else new.labels,
        )

    # --- looking ----------------------------------------------------------------------------

    async def get(self, job_id: str, *, tenant: str) -> Job:
        """The job as it is now.

        Raises:
            InvalidInput: `job_id` is no UUID.
            NotFound: there is none of this tenant, or it has expired.
        """
        job = await self.store.get(tenant, parse_uuid(job_id, "job id"))
        if job is None:
            raise NotFound(
                f"no job {job_id} for tenant {tenant!r}; it may have expired, or belong to another tenant"
            )
        return job

    async def page(self, query: JobFilter, *, limit: int = 50, after: str | None = None) -> Page:
        """Up to `limit` (1 to 1,000) jobs, newest first or as the filter says; `after` is the `next` of the page before."""
        if not 1 <= limit <= MAX_PAGE:
            raise InvalidInput(f"limit is {limit}; expected 1 to {MAX_PAGE}")
        if after is not None:
            after = parse_uuid(after, "cursor")
        jobs = await self.store.find(query, limit + 1, after)
        more = len(jobs) > limit
        return Page(jobs=tuple(jobs[:limit]), next=jobs[limit - 1].id if more else None)

    async def count(self, query: JobFilter) -> int:
        """How many jobs match."""
        return await self.store.count(query)

    async def stats(
        self, tenant: str | None, *, user_id: str | None = None, document_id: str | None = None
    ) -> Stats:
        """Counts by kind and state; None: of all tenants, for operators.

        Args:
            user_id, document_id: count only jobs of this user, about this document. Costs what these jobs cost, and leaves
                out the expired ones, which otherwise count until they are purged.
        """
        whole = await self.store.stats(tenant)
        if user_id is None and document_id is None:
            return whole
        counts: dict[str, dict[JobState, int]] = {}
        for kind, states in whole.counts.items():
            for state in states:
                query = JobFilter(
                    tenant=tenant, kinds=(kind,), states=(state,), user_id=user_id, document_id=document_id
                )
                if number := await self.store.count(query):
                    counts.setdefault(kind, {})[state] = number
        return Stats(counts=counts)

    async def tenants(self, limit: int = 100, after: str = "") -> dict[str, datetime | None]:
        """Who has jobs, by name, and since when the one has been due that has waited longest; see `JobStore.tenants`."""
        return await self.store.tenants(limit, after)

    async def oldest_due(self, tenant: str | None = None) -> datetime | None:
        """Since when the pending job has been due that has waited longest, of this tenant or of all; None: none is due."""
        after, oldest = "" if tenant is None else tenant[:-1], list[datetime]()
        while found := await self.store.tenants(MAX_PAGE, after):
            oldest += [due for name, due in found.items() if due is not None and tenant in (None, name)]
            after = max(found)
            if len(found) < MAX_PAGE or (tenant is not None and after >= tenant):
                break
        return min(oldest, default=None)

    async def history(self, job_id: str, *, tenant: str) -> list[Entry]:
        """All that happened to the job, oldest first, from its coming in to the run under way."""
        job = await self.get(job_id, tenant=tenant)
        return timeline(job, await self.store.history(tenant, job.id))

    async def watch(self, job_id: str, *, tenant: str, poll: timedelta | None = None) -> AsyncIterator[Job]:
        """The job now, then after each change that is seen, up to its terminal state.

        Args:
            poll: how long to rely on hints alone; default: the service's.
        """
        with self.hints.listen(parse_uuid(job_id, "job id")) as changed:
            seen = -1
            while True:
                job = await self.get(job_id, tenant=tenant)
                if job.version != seen:
                    seen = job.version
                    yield job
                if job.finished:
                    return
                await wait_for(changed, (poll or self.poll).total_seconds())

    async def wait(self, job_id: str, *, tenant: str, timeout: float | None = None) -> Job:
        """The job once it is finished.

        Args:
            timeout: seconds; None: for ever.

        Raises:
            WaitTimeout: it was not finished in time. It goes on.
        """
        deadline = None if timeout is None else self.clock.now() + timedelta(seconds=timeout)
        with self.hints.listen(parse_uuid(job_id, "job id")) as changed:
            while True:
                job = await self.get(job_id, tenant=tenant)
                if job.finished:
                    return job
                pause = self.poll.total_seconds()
                if deadline is not None:
                    left = (deadline - self.clock.now()).total_seconds()
                    if left <= 0:
                        raise WaitTimeout(f"job {job_id} is still {job.state} after {timeout} s; it goes on")
                    pause = min(pause, left)
                await wait_for(changed, pause)

    # --- by hand ----------------------------------------------------------------------------

    async def cancel(self, job_id: str, *, tenant: str, actor: str = "user", reason: str = "") -> Job:
        """Call the job off; one that is cancelled already is returned as it is.

        Raises:
            IllegalTransition: it has come to another end.
        """
        check.json_value(reason, "reason")
        return await self._decide(
            job_id,
            tenant,
            actor,
            lambda job, stamp: (
                None if job.state is JobState.CANCELLED else transition.cancel(job, stamp, reason=reason)
            ),
        )

    async def requeue(self, job_id: str, *, tenant: str, actor: str = "user") -> Job:
        """Send a failed, partial or cancelled job round again; an unfinished one is returned as it is."""
        return await self._decide(
            job_id,
            tenant,
            actor,
            lambda job, stamp: None if not job.finished else transition.requeue(job, stamp),
        )

    async def requeue_all(self, query: JobFilter, *, actor: str = "user") -> int:
        """Requeue all jobs that match and can be; how many."""
        states = {JobState.FAILED, JobState.PARTIAL, JobState.CANCELLED}
        query = msgspec.structs.replace(query, states=tuple(states & set(query.states or states)))
        done, after = 0, None
        while query.states and (jobs := await self.store.find(query, 500, after)):
            moves = [transition.requeue(job, self.stamp(actor)) for job in jobs if not transition.moved(job)]
            done += sum(await self.apply(moves))
            after = jobs[-1].id
        return done

    async def respond(
        self, job_id: str, answer: Json, *, tenant: str, actor: str = "user", key: str | None = None
    ) -> Job:
        """Answer the job's open question; exactly one answer is accepted. Saying the same again is a success.

        Args:
            key: which question is meant; None: the last one.

        Raises:
            InvalidInput: the answer is none of the choices, or does not fit the schema.
            IllegalTransition: no such question is open, its deadline is over, or somebody else's answer came first.
        """
        check.json_value(answer, "the answer")

        def answered(job: Job, stamp: Stamp) -> Transition | None:
            if _answered(job, answer, actor, key):
                return None
            move = transition.answer(job, answer, stamp, key)
            check_answer(job.questions[-1], answer)
            return move

        return await self._decide(job_id, tenant, actor, answered)

    async def edit(
        self,
        job_id: str,
        *,
        tenant: str,
        actor: str = "user",
        priority: int | None = None,
        labels: Mapping[str, str] | None = None,
        run_at: datetime | None = None,
        max_attempts: int | None = None,
        max_rescues: int | None = None,
        ttl: timedelta | None | UnsetType = UNSET,
    ) -> Job:
        """Change an unfinished job as told; the rest stays, and the history keeps what was.

        Args:
            labels: take the place of all that there are.
            run_at: not before this moment (aware); of a pending job only.
            priority, max_attempts, max_rescues, ttl: as in `NewJob`.

        Raises:
            InvalidInput: a value does not fit.
            IllegalTransition: it is finished, or not pending any more.
        """
        check.priority(priority or 0)
        check.labels(labels or {})
        check.at_least(1 if max_attempts is None else max_attempts, 1, "max_attempts")
        check.at_least(max_rescues or 0, 0, "max_rescues")
        if ttl is not UNSET:
            check.ttl(ttl)
        changes: dict[str, Any] = {
            "priority": priority,
            "labels": None if labels is None else dict(labels),
            "max_attempts": max_attempts,
            "max_rescues": max_rescues,
            "run_at": None if run_at is None else check.aware(run_at, "run_at").astimezone(UTC),
            "ttl": ttl,
        }
        return await self._decide(
            job_id, tenant, actor, lambda job, stamp: transition.edit(job, stamp, **changes)
        )

    async def report(
        self,
        job_id: str,
        fraction: float | None,
        message: str = "",
        *,
        tenant: str,
        counts: Mapping[str, int] | None = None,
        epoch: int | None = None,
    ) -> Job:
        """Tell how far a running job has come, from outside the handler that waits for that work.

        What the handler itself tells or saves next takes the place of it. (For work without a handler: `App.track`.)

        Args:
            fraction, message, counts: as of `Context.progress`.
            epoch: of the run that is meant (`Context.epoch`), so that a late report says nothing about a newer one.

        Raises:
            IllegalTransition: the job is not running, or another run is under way.
        """

        def told(job: Job, _: Stamp) -> Transition:
            if epoch not in (None, job.epoch):
                raise IllegalTransition(
                    f"job {job.id} is at its run {job.epoch}, the report is about run {epoch}; drop it"
                )
            return transition.report(job, reported(job, fraction, message, counts or {}), self.clock.now())

        return await self._decide(job_id, tenant, "", told)

    async def delete(self, job_id: str, *, tenant: str, actor: str = "user") -> None:
        """Remove the job with its history, in whatever state; a worker that runs it is fenced out.

        Who did so is in the log only.

        Raises:
            NotFound: there is none.
        """
        job = await self.get(job_id, tenant=tenant)
        await self.store.delete(tenant, job.id)
        log.info("job %s of tenant %s (%s, %s) was deleted by %s", job.id, tenant, job.kind, job.state, actor)
        self.hints.ring(job.id)

    async def _decide(
        self,
        job_id: str,
        tenant: str,
        actor: str,
        decide: Callable[[Job, Stamp], Transition | None],
    ) -> Job:
        """Read, decide, write; read again and decide again as long as somebody else was quicker."""
        for _ in range(_TRIES):
            job = await self.get(job_id, tenant=tenant)
            move = decide(job, self.stamp(actor))
            if move is None:
                return job
            if (await self.apply([move]))[0]:
                return move.after
        raise StoreError(f"job {job_id} changed {_TRIES} times while being decided about; try again")

    # --- for workers and maintenance --------------------------------------------------------

    def stamp(self, actor: str) -> Stamp:
        """Who, when, and a new entry id."""
        now = self.clock.now()
        return Stamp(at=now, actor=actor, entry_id=uuid7(now, self.chance.getrandbits(64)))

    async def apply(self, moves: Sequence[Transition]) -> list[bool]:
        """Write transitions; for each whether it stands. Tells the listeners and those who wait."""
        outcomes = await self.store.apply(moves)
        for move, stands in zip(moves, outcomes, strict=True):
            if stands:
                state = move.after.state
                room = state is not JobState.RUNNING and self.limited(move.after.kind)
                self.hints.ring(move.after.id, work=room or state is JobState.PENDING)
                for listener in self.listeners:
                    listener(move)
        return outcomes

    async def settle_overdue(self, actor: str, limit: int = 100) -> int:
        """Rescue jobs whose worker died, and let defaults stand for answers that did not come; how many.

        Every replica may do so at any time: each job is decided once.
        """
        overdue = await self.store.expired(limit)
        moves = [
            (transition.rescue if job.state is JobState.RUNNING else transition.default)(
                job, self.stamp(actor)
            )
            for job in overdue
        ]
        outcomes = await self.apply(moves) if moves else []
        for move, stands in zip(moves, outcomes, strict=True):
            if stands and move.entry is not None and move.entry.event is not Event.DEFAULTED:
                log.warning(
                    "job %s: its worker %s is gone; %s (rescue %d of %d)",
                    move.after.id,
                    move.after.worker,
                    "given up" if move.after.state in TERMINAL else "queued again",
                    move.after.rescues,
                    move.after.max_rescues,
                    extra={"job": move.after.id, "tenant": move.after.tenant},
                )
        return len(overdue)


def _underway(job: Job, done: Done) -> Job:
    run = transition.claim(job, HERE, LEASE, job.created_at)
    return replace(run, progress=done.progress)


def _payload_size(new: NewJob) -> int:
    """Bytes of the payload, unless it is too large."""
    size = len(msgspec.json.encode(new.payload))
    if size > MAX_PAYLOAD:
        raise InvalidInput(
            f"the payload has {size:,} bytes; at most {MAX_PAYLOAD:,} are allowed. "
            "Put large content into a file or blob and let the payload name it"
        )
    return size


def _same_work(made: Job, kept: Job) -> bool:
    return (made.kind, made.payload) == (kept.kind, kept.payload)


def _answered(job: Job, answer: Json, actor: str, key: str | None) -> bool:
    """Whether this very answer was accepted before."""
    given = [question for question in job.questions if question.answered_at is not None]
    if job.question is not None or not given:
        return False
    wanted = given[-1] if key is None else next((item for item in given if item.key == key), None)
    return wanted is not None and (wanted.answer, wanted.answered_by) == (answer, actor)
