"""How jobs, documents and hits look as JSON, in every face alike. Names stay; new ones may come.

Times are ISO 8601 in UTC. What is null is not known, or does not apply.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec

from perdure.domain.access import Key, Scope
from perdure.domain.document import DEFAULT_NAMESPACE, StoredDocument
from perdure.domain.job import Entry, Job, Progress, Question
from perdure.domain.log import JobEvent
from perdure.domain.query import JobFilter, Page, Stats
from perdure.domain.record import Json, Record
from perdure.domain.search import Hit
from perdure.domain.state import Event, JobState
from perdure.orders import KIND

Moment = Annotated[datetime, msgspec.Meta(tz=True)]

_COUNTS = ("chunks_total", "chunks_embedded", "chunks_reused", "chunks_stored", "unchanged", "superseded")


class Error(Record):
    """Why the last run ended badly. The traceback is for whoever runs the jobs and stays inside.

    Attributes:
        fatal: true where trying again cannot help.
    """

    type: str
    message: str
    fatal: bool


class _Standing(Record):
    """How a job stands.

    Attributes:
        attempt: runs that the handler ended, well or badly. rescues: runs that died under it.
        started_at: when the current or last run began.
        expires_at: when the record of a finished job goes; vectors stay.
    """

    id: str
    kind: str
    state: JobState = msgspec.field(name="status")
    document_id: str | None
    progress: Progress | None
    failure: Error | None = msgspec.field(name="error")
    attempt: int
    max_attempts: int
    rescues: int
    created_at: Moment
    updated_at: Moment
    started_at: Moment | None
    completed_at: Moment | None
    expires_at: Moment | None


class JobLine(_Standing):
    """A job in a list, without its payload and result, which may be large.

    Attributes:
        worker: who runs it, or ran it last.
        run_at: when a pending job may start; null in other states.
        status, attempt, rescues, …: as in `Status`.
    """

    tenant: str
    priority: int
    max_rescues: int
    user_id: str | None
    created_by: str | None
    idempotency_key: str | None
    labels: dict[str, str]
    worker: str | None
    due_at: Moment | None = msgspec.field(name="run_at")

    @classmethod
    def of(cls, job: Job) -> Self:
        """Render a job."""
        line = msgspec.convert(job, cls, from_attributes=True)
        # `due_at` means something else in each state; `run_at` is what it means in the first.
        return line if job.state is JobState.PENDING else msgspec.structs.replace(line, due_at=None)


class JobWhole(JobLine):
    """A job with all that belongs to it; at most its last question is open."""

    payload: dict[str, Any]
    result: Any
    questions: tuple[Question, ...]


class Status(_Standing):
    """How far a document, or a job of any kind, has come.

    Attributes:
        status: the job's state.
        attempt: runs that the handler ended, well or badly. rescues: runs that died under it.
        chunks_reused: unchanged since the version before: not embedded again.
        failed_chunks: what failed for good, where the status is `partial`.
        unchanged: true where the content was the version before's.
        superseded: true where a newer version took over meanwhile.
        expires_at: when this record goes; the vectors stay.
    """

    id: str = msgspec.field(name="job_id")
    ingestion_id: str
    namespace: str | None
    version: int | None
    chunks_total: int | None
    chunks_embedded: int | None
    chunks_reused: int | None
    chunks_stored: int | None
    unchanged: bool | None
    superseded: bool | None
    failed_chunks: list[Any]

    @classmethod
    def of(cls, job: Job) -> Self:
        """Render a job."""
        told: dict[str, Any] = counts(job)
        standing = msgspec.convert(job, _Standing, from_attributes=True)
        return cls(
            ingestion_id=job.id,
            **msgspec.structs.asdict(standing) | _about(job) | {name: told.get(name) for name in _COUNTS},
            failed_chunks=told.get("failed_chunks") or [],
        )


class Accepted(Record):
    """A document was taken in, durably; a worker will come to it. `job_id` is the same id, as it is called among jobs."""

    ingestion_id: str
    job_id: str
    state: JobState = msgspec.field(name="status")
    document_id: str
    namespace: str
    version: int
    status_url: str

    @classmethod
    def of(cls, job: Job, status_url: str) -> Self:
        """Render the job of a document."""
        return cls(ingestion_id=job.id, job_id=job.id, state=job.state, status_url=status_url, **_about(job))


class EntryLine(Record):
    """One line of a job's history; `status` is the state after, `actor` a worker's name, a user, or `maintenance`."""

    id: str
    event: Event
    at: Moment
    state: JobState = msgspec.field(name="status")
    actor: str
    attempt: int
    rescues: int
    started_at: Moment | None
    detail: dict[str, Any]


class EventLine(EntryLine):
    """Something that happened to a job, told live; `id` is the entry's, by which one that comes again is known."""

    tenant: str
    job_id: str
    kind: str

    @classmethod
    def of(cls, event: JobEvent) -> Self:
        """Render an event."""
        entry = msgspec.convert(event.entry, EntryLine, from_attributes=True)
        told = msgspec.structs.asdict(entry)
        return cls(**told, tenant=event.tenant, job_id=event.job_id, kind=event.kind)


class History(Record):
    """All that happened to a job, oldest first."""

    items: list[EntryLine]

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Self:
        """Render entries."""
        return cls(items=msgspec.convert(entries, list[EntryLine], from_attributes=True))


class JobPage(Record):
    """Jobs in order. Give `next_cursor` as `cursor` for the next page; null at the end."""

    items: list[JobLine]
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page, query: JobFilter) -> Self:
        """Render a page of this list."""
        following = None if page.next is None else query.seal(page.next)
        return cls(items=[JobLine.of(job) for job in page.jobs], next_cursor=following)


class Added(Record):
    """A job that was added, or that was there under its key."""

    id: str
    state: JobState = msgspec.field(name="status")
    idempotency_key: str | None


class Batch(Record):
    """The jobs of a batch, in the order of its lines."""

    items: list[Added]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Self:
        """Render jobs."""
        return cls(items=msgspec.convert(jobs, list[Added], from_attributes=True))


class Counts(Record):
    """How many jobs a tenant has; `by_kind` leaves out zeros."""

    total: int
    unfinished: int
    by_state: dict[JobState, int] = msgspec.field(name="by_status")
    counts: dict[str, dict[JobState, int]] = msgspec.field(name="by_kind")

    @classmethod
    def of(cls, stats: Stats) -> Self:
        """Render counts."""
        return msgspec.convert(stats, cls, from_attributes=True)


class DocumentLine(Record):
    """A document that searches find.

    Attributes:
        content_hash: SHA-256 of the source's bytes, hexadecimal.
        complete: false where chunks are missing because they failed for good.
        model: the embedding model of its vectors.
    """

    document_id: str
    version: int
    ingestion_id: str
    content_hash: str
    metadata: dict[str, Any]
    chunk_count: int
    complete: bool
    model: str
    published_at: Moment

    @classmethod
    def of(cls, stored: StoredDocument) -> Self:
        """Render a document."""
        document = stored.document
        told = msgspec.structs.asdict(document) | msgspec.structs.asdict(stored)
        return msgspec.convert(
            {**told, "document_id": document.id, "metadata": document.source_metadata}, cls
        )


class DocumentPage(Record):
    """Documents by id. Give `next_cursor` as `cursor` for the next page; null at the end."""

    items: list[DocumentLine]
    next_cursor: str | None

    @classmethod
    def of(cls, found: Sequence[StoredDocument], limit: int) -> Self:
        """Render up to `limit` documents; one more among `found` tells that a page follows."""
        items = [DocumentLine.of(stored) for stored in found[:limit]]
        return cls(items=items, next_cursor=items[-1].document_id if len(found) > limit else None)


class Webhook(Record):
    """Who is told what happens to jobs.

    Attributes:
        states: a job that comes into one of these is told of. kinds: only of these; empty: of all.
        active: false once the receiver said that it is gone (410).
    """

    id: str
    url: str
    states: tuple[JobState, ...]
    kinds: tuple[str, ...]
    active: bool
    created_at: Moment

    @classmethod
    def of(cls, subscription: Any) -> Self:
        """Render a subscription."""
        return msgspec.convert(subscription, cls, from_attributes=True)


class NewWebhook(Webhook):
    """A webhook that was just made.

    Attributes:
        secret: signs each message (Standard Webhooks); told only now.
    """

    secret: str


class WebhookList(Record):
    """A tenant's webhooks, oldest first."""

    items: list[Webhook]

    @classmethod
    def of(cls, subscriptions: Sequence[Any]) -> Self:
        """Render subscriptions."""
        return cls(items=[Webhook.of(one) for one in subscriptions])


class Feed(Record):
    """How a feed stands.

    Attributes:
        reader: the process that reads it; empty: nobody. lag_seconds: from the last change to its reading; null: unknown.
        note: the last thing that operators had to know.
    """

    name: str
    reader: str
    upserts: int
    deletes: int
    parked: int
    lag_seconds: float | None
    note: str

    @classmethod
    def of(cls, status: Any, now: float) -> Feed:
        """Render a status; `now` is the store's time, in seconds since 1970."""
        reader = status.leader if status.until > now else ""
        told = msgspec.structs.asdict(status)
        return msgspec.convert({**told, "reader": reader, "lag_seconds": status.lag}, cls)


class FeedList(Record):
    """A tenant's feeds, by name."""

    items: list[Feed]


class Delivery(Record):
    """One message to a webhook.

    Attributes:
        job_id: of the job that it is about. type: for example ``job.completed``.
        answer: what the receiver answered, or why it did not.
    """

    id: str
    state: JobState = msgspec.field(name="status")
    type: str
    job_id: str
    attempt: int
    answer: str | None
    created_at: Moment
    completed_at: Moment | None

    @classmethod
    def of(cls, job: Job) -> Self:
        """Render a delivery job."""
        message: Any = job.payload["message"]
        result: Any = job.result or {}
        answer = (
            f"{result['status']} {result['answer']}".strip() if "status" in result else result.get("skipped")
        )
        return cls(
            id=job.id,
            state=job.state,
            type=message["type"],
            job_id=message["data"]["job_id"],
            attempt=job.attempt,
            answer=job.failure.message if job.failure else answer,
            created_at=job.created_at,
            completed_at=job.completed_at,
        )


class DeliveryList(Record):
    """Messages to a webhook, newest first."""

    items: list[Delivery]

    @classmethod
    def of(cls, jobs: Sequence[Job]) -> Self:
        """Render delivery jobs."""
        return cls(items=[Delivery.of(job) for job in jobs])


class KeyLine(Record):
    """An API key.

    Attributes:
        tenant: null: any tenant's.
        rate: calls a second; null: no limit.
        token: the secret, told once; null ever after.
    """

    id: str
    name: str
    tenant: str | None
    scope: Scope
    created_at: Moment
    created_by: str
    expires_at: Moment | None
    revoked_at: Moment | None
    rate: float | None
    token: str | None = None

    @classmethod
    def of(cls, key: Key, token: str | None = None) -> Self:
        """Render a key."""
        return msgspec.structs.replace(msgspec.convert(key, cls, from_attributes=True), token=token)


class Deleted(Record):
    """How many chunks searches no longer find."""

    chunks_deleted: int


class Deferred(Record):
    """The deletion is noted, and done by this job as soon as the vector store is back."""

    job_id: str
    status_url: str


class Span(Record):
    """A place in a document's extracted text, in characters; the end is exclusive."""

    start: int
    end: int


class HitLine(Record):
    """A chunk that was found.

    Attributes:
        score: higher is better; compare within one answer only.
        metadata: the document's own. chunk_metadata: what the parser knows of this place (`heading`, `page`, …).
    """

    score: float
    text: str
    document_id: str
    version: int
    ingestion_id: str
    chunk_id: str
    chunk_index: int
    span: Span
    metadata: dict[str, Any]
    chunk_metadata: dict[str, Any]

    @classmethod
    def of(cls, hit: Hit) -> Self:
        """Render a hit."""
        fields = msgspec.structs.asdict(hit)
        span = Span(start=fields.pop("start"), end=fields.pop("end"))
        return cls(text=fields.pop("chunk_text"), span=span, **fields)


class Hits(Record):
    """What was found, best first."""

    hits: list[HitLine]

    @classmethod
    def of(cls, hits: Sequence[Hit]) -> Self:
        """Render hits."""
        return cls(hits=[HitLine.of(hit) for hit in hits])


def counts(job: Job) -> dict[str, Json]:
    """All that a job has counted: its progress, overlaid by its result where that is an object."""
    told: dict[str, Json] = dict(job.progress.counts) if job.progress else {}
    return told | job.result if isinstance(job.result, dict) else told


def _about(job: Job) -> dict[str, Any]:
    """Which document a job is about; a payload leaves out what is the default."""
    return {
        "document_id": job.document_id,
        "namespace": job.payload.get("namespace", DEFAULT_NAMESPACE if job.kind == KIND else None),
        "version": job.payload.get("version"),
    }
