"""Vectorization records for a pipeline that runs its own work, and only keeps its status here.

A small typed view of any job store. Such a record is a job that no worker claims; jobs that Perdure's own workers run can be
read through it, too, and are written by their workers alone.
"""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.domain import validation as check
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import IllegalTransition, InvalidInput, NotFound, StoreError
from perdure.domain.ids import parse_uuid, uuid7
from perdure.domain.job import DEFAULT_TENANT, DEFAULT_TTL, Entry, Job, Progress
from perdure.domain.query import JobFilter
from perdure.domain.record import Json, Record
from perdure.domain.state import TERMINAL, Event, JobState
from perdure.domain.transition import Transition
from perdure.ports.job_store import JobStore

RECORD: Final = "vectorization"
"""The kind of a record; nobody handles it."""

RUN: Final = "vectorize"
"""The kind of the jobs that Perdure's workers run."""

_TRIES: Final = 20
_TIMES: Final = ("started_at", "completed_at")


class VectorizationJobStatus(StrEnum):
    """How far a document is."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    PARTIAL = "partial"
    FAILED = "failed"


_STATES: Final = {
    VectorizationJobStatus.PENDING: (JobState.PENDING,),
    VectorizationJobStatus.RUNNING: (JobState.RUNNING, JobState.WAITING),
    VectorizationJobStatus.COMPLETED: (JobState.COMPLETED,),
    VectorizationJobStatus.PARTIAL: (JobState.PARTIAL,),
    VectorizationJobStatus.FAILED: (JobState.FAILED, JobState.CANCELLED),
}
"""status → the states that it stands for"""


class VectorizationResult(Record):
    """What is known of one document's vectorization.

    Attributes:
        job_id: a UUID.
        failed_chunks: which failed and why; JSON objects.
        vector_ids: of what was stored; None where nobody told.
        started_at, completed_at: aware; what the pipeline says.

    Raises:
        InvalidInput: on construction, naming the field.
    """

    job_id: str
    document_id: str
    document_version: int = 1
    namespace: str = DEFAULT_NAMESPACE
    status: VectorizationJobStatus = VectorizationJobStatus.PENDING
    chunks_total: int = 0
    chunks_embedded: int = 0
    chunks_stored: int = 0
    failed_count: int = 0
    content_hash: str | None = None
    failed_chunks: list[dict[str, Json]] | None = None
    vector_ids: list[str] | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None

    def __post_init__(self) -> None:
        check.json_value(msgspec.to_builtins(self), "the record")
        for what in _TIMES:
            if (moment := getattr(self, what)) is not None:
                check.aware(moment, what)


class VectorizationJobRepository:
    """Create, get, update and list vectorization records.

    Args:
        store: set up and open.
        ttl: how long a finished record can be read; None: for ever.
        chance: randomness for ids.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        tenant: str = DEFAULT_TENANT,
        ttl: timedelta | None = DEFAULT_TTL,
        chance: random.Random | None = None,
    ) -> None:
        self._store = store
        self._tenant = tenant
        self._ttl = ttl
        self._chance = chance or random.SystemRandom()

    async def create(self, job: VectorizationResult) -> str:
        """Store a new record; its id. Saying it again changes nothing.

        Raises:
            InvalidInput: the id is no UUID, or the record is finished already.
        """
        if JobState(job.status) in TERMINAL:
            raise InvalidInput(
                f"a new record cannot be {job.status}; create it as pending or running, then update"
            )
        now = await self._store.now()
        empty = Job(
            id=parse_uuid(job.job_id, "job_id"),
            tenant=self._tenant,
            kind=RECORD,
            state=JobState.PENDING,
            due_at=None,  # so nobody claims it, and it is never overdue
            created_at=now,
            updated_at=now,
            document_id=job.document_id,
            ttl=self._ttl,
            payload={
                "document_id": job.document_id,
                "version": job.document_version,
                "namespace": job.namespace,
            },
        )
        [stored] = await self._store.add([_told(empty, job, now)])
        return stored.id

    async def get(self, job_id: str) -> VectorizationResult | None:
        """The record; None if there is none, or it has expired."""
        job = await self._store.get(self._tenant, parse_uuid(job_id, "job_id"))
        return None if job is None or job.kind not in (RECORD, RUN) else _result(job)

    async def update(self, job: VectorizationResult) -> None:
        """Write what the pipeline says now. The last one to say something stands; a finished record stays as it is.

        Raises:
            NotFound: there is no such record.
            IllegalTransition: it is finished, or it is a job of Perdure's own workers.
        """
        for _ in range(_TRIES):
            stored = await self._store.get(self._tenant, parse_uuid(job.job_id, "job_id"))
            if stored is None:
                raise NotFound(f"there is no vectorization record {job.job_id}; create it first")
            if stored.kind == RECORD and _result(stored) == job:
                return
            if stored.kind != RECORD or stored.finished:
                raise IllegalTransition(
                    f"{job.job_id} is a {stored.kind} job that is {stored.state}; only an unfinished record is updated"
                )
            if (await self._store.apply([self._move(stored, job, await self._store.now())]))[0]:
                return
        raise StoreError(f"record {job.job_id} changed {_TRIES} times while being updated; try again")

    async def list_by_document(self, document_id: str) -> list[VectorizationResult]:
        """Every record of a document, newest first."""
        return await self._all(JobFilter(tenant=self._tenant, kinds=(RECORD, RUN), document_id=document_id))

    async def list_by_status(self, status: VectorizationJobStatus) -> list[VectorizationResult]:
        """Every record with this status, newest first."""
        return await self._all(JobFilter(tenant=self._tenant, kinds=(RECORD, RUN), states=_STATES[status]))

    async def _all(self, query: JobFilter) -> list[VectorizationResult]:
        jobs: list[Job] = []
        while page := await self._store.find(query, 500, jobs[-1].id if jobs else None):
            jobs += page
        return [_result(job) for job in jobs]

    def _move(self, stored: Job, told: VectorizationResult, now: datetime) -> Transition:
        """The move that the record makes. Not one of the domain's: those are for runs, which this store did not see."""
        after = _told(stored, told, now)
        entry = Entry(
            id=uuid7(now, self._chance.getrandbits(74)),
            event=Event.EDITED,
            at=now,
            state=after.state,
            actor="pipeline",
            epoch=after.epoch,
            attempt=after.attempt,
            rescues=after.rescues,
        )
        return Transition(before=stored.state, after=after, epoch=None, version=stored.version, entry=entry)


def _told(job: Job, told: VectorizationResult, now: datetime) -> Job:
    """The job that keeps what was told: whole as its result, and where lists and counters look for it."""
    state = JobState(told.status)
    ended = state in TERMINAL
    counts = ("chunks_total", "chunks_embedded", "chunks_stored", "failed_count")
    times = {name: moment.astimezone(UTC) for name in _TIMES if (moment := getattr(told, name)) is not None}
    kept: dict[str, Any] = msgspec.to_builtins(replace(told, **times))
    return replace(
        job,
        state=state,
        version=job.version + 1,
        updated_at=now,
        completed_at=now if ended else None,
        due_at=now + job.ttl if ended and job.ttl is not None else None,
        progress=Progress(counts={name: getattr(told, name) for name in counts}),
        result=kept,
    )


def _result(job: Job) -> VectorizationResult:
    if job.kind == RECORD:
        return msgspec.convert(job.result, VectorizationResult)
    known: dict[str, Any] = dict(job.progress.counts) if job.progress else {}
    known |= job.result if isinstance(job.result, dict) else {}
    [status] = (status for status, states in _STATES.items() if job.state in states)
    return VectorizationResult(
        job_id=job.id,
        document_id=job.document_id or "",
        document_version=msgspec.convert(job.payload.get("version", 1), int),
        namespace=str(job.payload.get("namespace", DEFAULT_NAMESPACE)),
        status=status,
        chunks_total=known.get("chunks_total", 0),
        chunks_embedded=known.get("chunks_embedded", 0),
        chunks_stored=known.get("chunks_stored", 0),
        failed_count=known.get("chunks_failed", known.get("failed_count", 0)),
        content_hash=known.get("content_hash"),
        failed_chunks=known.get("failed_chunks"),
        started_at=job.started_at,
        completed_at=job.completed_at,
    )
