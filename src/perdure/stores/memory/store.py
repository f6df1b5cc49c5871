"""Jobs in this process's memory: exact and quick, and gone with the process."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from msgspec.structs import replace

from perdure.domain import transition
from perdure.domain.errors import CursorLost, StoreUnavailable
from perdure.domain.job import Entry, Job
from perdure.domain.log import Logged, LogPage
from perdure.domain.query import JobFilter, Stats
from perdure.domain.state import JobState
from perdure.domain.terms import PLAIN, Limit, Slots, Terms
from perdure.domain.transition import EDIT_FIELDS, RUN_FIELDS, Transition
from perdure.ports.job_store import Capabilities, Change
from perdure.stores.memory.copies import own, own_entry
from perdure.stores.memory.listener import Listener
from perdure.stores.memory.ordered import Due, discard, until
from perdure.stores.memory.queue import Queue
from perdure.stores.memory.values import MemoryValues

LOG: Final = 100_000
"""Lines of the log that are kept."""


def utc_now() -> datetime:
    """The machine's time."""
    return datetime.now(UTC)


class MemoryJobStore:
    """A `JobStore` for tests and for trying things out.

    No call awaits anything before its work is done, so that on one event loop each is one step.

    Args:
        clock: tells the store's time, aware; where it steps back the store's time stands still.
    """

    capabilities = Capabilities(
        durable=False,
        multi_process=False,
        change_feed=True,
        native_ttl=False,
        constant_stats=True,
        transactions=True,
    )

    def __init__(self, clock: Callable[[], datetime] = utc_now) -> None:
        self._clock = clock
        self._latest = datetime.min.replace(tzinfo=UTC)
        self._open = True
        self._jobs: dict[str, Job] = {}
        self._entries: dict[str, dict[str, Entry]] = {}
        self._keys: dict[tuple[str, str], str] = {}
        self._listed: defaultdict[str | None, list[str]] = defaultdict(list)
        """tenant (None: all of them) → ids, ascending."""
        self._counts: defaultdict[str | None, Counter[tuple[str, JobState]]] = defaultdict(Counter)
        self._queue = Queue()
        self._overdue: list[Due] = []
        """Running and waiting jobs by the end of their lease or the deadline of their question."""
        self._expiring: list[Due] = []
        """Finished jobs by the end of their `ttl`."""
        self._listeners: set[Listener] = set()
        self._log: deque[tuple[str, Entry]] = deque(maxlen=LOG)
        self._logged = 0
        self.values = MemoryValues(self._moment)

    async def setup(self) -> None:
        """Nothing needs to be made."""
        self._moment()

    async def close(self) -> None:
        """Refuse every later call. What was stored is gone."""
        self._open = False
        for listener in self._listeners:
            listener.end()

    async def now(self) -> datetime:
        return self._moment()

    # --- writing ----------------------------------------------------------------------------

    async def add(self, jobs: Sequence[Job]) -> list[Job]:
        now = self._moment()
        # All are copied before the first is stored: what cannot be copied fails with nothing written.
        return [own(self._known(job, now) or self._insert(job)) for job in [own(job) for job in jobs]]

    async def claim(
        self, worker: str, kinds: Sequence[str], limit: int, lease: timedelta, terms: Terms = PLAIN
    ) -> list[Job]:
        now, wanted, taken = self._moment(), frozenset(kinds), list[Job]()
        slots = self._slots(terms.of(kinds))
        while len(taken) < limit and (job_id := self._queue.next(wanted, now, terms, slots)):
            taken.append(own(self._write(transition.claim(self._jobs[job_id], worker, lease, now))))
        return taken

    def _slots(self, limits: Mapping[str, Limit]) -> Slots:
        running = {
            (kind, tenant): counts[kind, JobState.RUNNING]
            for tenant, counts in (self._counts.items() if limits else ())
            for kind in limits
            if tenant is not None
        }
        return Slots(limits, running)

    async def extend(self, worker: str, epochs: Mapping[str, int], lease: timedelta) -> set[str]:
        now = self._moment()
        lost = set()
        for job_id, epoch in epochs.items():
            job = self._jobs.get(job_id)
            if job is None or (job.state, job.epoch, job.worker) != (JobState.RUNNING, epoch, worker):
                lost.add(job_id)
            else:
                self._write(replace(job, due_at=now + lease, version=job.version + 1))
        return lost

    async def apply(self, transitions: Sequence[Transition]) -> list[bool]:
        self._moment()
        return [self._apply(move) for move in transitions]

    async def delete(self, tenant: str, job_id: str) -> bool:
        self._moment()
        job = self._jobs.get(job_id)
        if job is None or job.tenant != tenant:
            return False
        self._remove(job)
        return True

    async def purge(self, limit: int) -> int:
        gone = until(self._expiring, self._moment(), limit)
        for job_id in gone:
            self._remove(self._jobs[job_id])
        return len(gone)

    # --- reading ----------------------------------------------------------------------------

    async def get(self, tenant: str, job_id: str) -> Job | None:
        job = self._visible(tenant, job_id)
        return None if job is None else own(job)

    async def find(self, query: JobFilter, limit: int, after: str | None = None) -> list[Job]:
        return [own(job) for job in islice(self._matching(query, after), limit)]

    async def count(self, query: JobFilter) -> int:
        return sum(1 for _ in self._matching(query, None))

    async def stats(self, tenant: str | None) -> Stats:
        self._moment()
        counts: dict[str, dict[JobState, int]] = {}
        for (kind, state), number in self._counts.get(tenant, Counter()).items():
            if number:
                counts.setdefault(kind, {})[state] = number
        return Stats(counts=counts)

    async def tenants(self, limit: int, after: str = "") -> dict[str, datetime | None]:
        oldest = self._queue.oldest(self._moment())
        names = sorted(
            name for name, ids in self._listed.items() if name is not None and name > after and ids
        )
        return {name: oldest.get(name) for name in names[:limit]}

    async def expired(self, limit: int) -> list[Job]:
        return [own(self._jobs[job_id]) for job_id in until(self._overdue, self._moment(), limit)]

    async def history(self, tenant: str, job_id: str) -> list[Entry]:
        if self._visible(tenant, job_id) is None:
            return []
        return [own_entry(entry) for entry in self._entries[job_id].values()]

    async def entries(self, after: str | None, limit: int) -> LogPage:
        self._moment()
        done = self._logged if after is None else int(after)
        skipped = done - (self._logged - len(self._log))
        if not 0 <= skipped <= len(self._log):
            raise CursorLost(f"the log is kept for {LOG:,} lines; read on from its end")
        lines = list(islice(self._log, skipped, skipped + limit))
        return LogPage(
            lines=tuple(
                Logged(tenant=job.tenant, job_id=job_id, kind=job.kind, entry=own_entry(entry))
                for job_id, entry in lines
                if (job := self._jobs.get(job_id)) is not None
            ),
            next=str(done + len(lines)),
            more=done + len(lines) < self._logged,
        )

    async def changes(self) -> AsyncIterator[Change]:
        self._moment()
        listener = Listener()
        self._listeners.add(listener)
        try:
            async for change in listener.changes():
                yield change
        finally:
            self._listeners.discard(listener)

    # --- how ----------------------------------------------------------------------------------

    def _moment(self) -> datetime:
        """Read the clock, which never goes back; refuse once closed."""
        if not self._open:
            raise StoreUnavailable("the memory store is closed; open a new one")
        self._latest = max(self._latest, self._clock().astimezone(UTC))
        return self._latest

    def _known(self, job: Job, now: datetime) -> Job | None:
        """The job that is there already under this one's id or key. An expired one makes way."""
        key_holder = self._keys.get((job.tenant, job.idempotency_key)) if job.idempotency_key else None
        for job_id in (job.id, key_holder):
            known = self._jobs.get(job_id) if job_id else None
            if known is not None and job_id != job.id and known.lapsed(now):
                self._write(known.unkeyed())
                continue
            if known is not None and not _gone(known, now):
                return known
            if known is not None:
                self._remove(known)
        return None

    def _insert(self, job: Job) -> Job:
        self._entries[job.id] = {}
        insort(self._listed[job.tenant], job.id)
        insort(self._listed[None], job.id)
        if job.idempotency_key is not None:
            self._keys[job.tenant, job.idempotency_key] = job.id
        return self._write(job)

    def _apply(self, move: Transition) -> bool:
        job = self._jobs.get(move.after.id)
        if job is None:
            return False
        entry = move.entry
        if entry is not None and entry.id in self._entries[job.id]:
            return True
        if not self._holds(move, job):
            return False
        if entry is not None:
            self._entries[job.id][entry.id] = kept = own_entry(entry)
            self._log.append((job.id, kept))
            self._logged += 1
        self._write(own(self._merged(move, job)))
        return True

    def _holds(self, move: Transition, job: Job) -> bool:
        if move.version is not None:
            return job.version == move.version
        return job.state is JobState.RUNNING and job.epoch == move.epoch

    def _merged(self, move: Transition, job: Job) -> Job:
        """The stored job with those fields of `after` that this transition may write."""
        names = RUN_FIELDS if move.version is None else (*RUN_FIELDS, *EDIT_FIELDS)
        fields = {name: getattr(move.after, name) for name in names}
        if move.after.state is job.state is JobState.RUNNING:
            fields["due_at"] = job.due_at
        return replace(job, version=job.version + 1, **fields)

    def _write(self, job: Job) -> Job:
        """Put the job in the place of what was there, in every index."""
        self._unindex(job.id)
        self._jobs[job.id] = job
        for tenant in (job.tenant, None):
            self._counts[tenant][job.kind, job.state] += 1
        if job.due_at is not None:
            if job.state is JobState.PENDING:
                self._queue.add(job, job.due_at)
            else:
                insort(self._timetable(job), (job.due_at, job.id))
        self._hint(job)
        return job

    def _remove(self, job: Job) -> None:
        self._unindex(job.id)
        for tenant in (job.tenant, None):
            discard(self._listed[tenant], job.id)
        if job.idempotency_key and self._keys.get((job.tenant, job.idempotency_key)) == job.id:
            del self._keys[job.tenant, job.idempotency_key]
        del self._jobs[job.id], self._entries[job.id]
        self._hint(job)

    def _unindex(self, job_id: str) -> None:
        """Take the job as it is stored out of the counts and timetables."""
        job = self._jobs.get(job_id)
        if job is None:
            return
        for tenant in (job.tenant, None):
            self._counts[tenant][job.kind, job.state] -= 1
        if job.due_at is not None:
            if job.state is JobState.PENDING:
                self._queue.discard(job, job.due_at)
            else:
                discard(self._timetable(job), (job.due_at, job.id))

    def _timetable(self, job: Job) -> list[Due]:
        return self._expiring if job.finished else self._overdue

    def _visible(self, tenant: str, job_id: str) -> Job | None:
        now = self._moment()
        job = self._jobs.get(job_id)
        return None if job is None or job.tenant != tenant or _gone(job, now) else job

    def _matching(self, query: JobFilter, after: str | None) -> Iterator[Job]:
        """Walk the tenant's jobs from the newest or the oldest, or from behind `after`."""
        now = self._moment()
        listed = self._listed.get(query.tenant, [])
        if query.oldest_first:
            places = range(0 if after is None else bisect_right(listed, after), len(listed))
        else:
            places = range((len(listed) if after is None else bisect_left(listed, after)) - 1, -1, -1)
        for place in places:
            job = self._jobs[listed[place]]
            if query.matches(job) and not _gone(job, now):
                yield job

    def _hint(self, job: Job) -> None:
        for listener in self._listeners:
            listener.tell(Change(tenant=job.tenant, job_id=job.id))


def _gone(job: Job, now: datetime) -> bool:
    return job.expires_at is not None and job.expires_at <= now
