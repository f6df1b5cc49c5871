"""The calls of the embedding service that Perdure replaces, in its own shape: who asked it goes on asking."""

from __future__ import annotations

from typing import Annotated, Any, Final, Self

from fastapi import APIRouter, Query, Response

from perdure import wire
from perdure.domain.errors import Forbidden
from perdure.domain.job import Job
from perdure.domain.query import JobFilter, Page, Stats
from perdure.domain.record import Record
from perdure.domain.state import JobState
from perdure.orders import KIND
from perdure.rest.bodies import EmbeddingQuery, Line
from perdure.rest.context import AppOf, Guarded, TenantOf, reply
from perdure.rest.openapi import answers
from perdure.wire import Moment

router = APIRouter(prefix="/api/v1/embedding-jobs", tags=["jobs"], route_class=Guarded)

STATES: Final = {
    "pending": (JobState.PENDING,),
    "processing": (JobState.RUNNING, JobState.WAITING),
    "completed": (JobState.COMPLETED, JobState.PARTIAL),
    "failed": (JobState.FAILED, JobState.CANCELLED),
}
"""The words of that service, and the states that each stands for."""


class EmbeddingMetadata(Record, rename="camel"):
    """What came of an embedding job. `processingTimeMs` is from the start of its last run to its end."""

    embedding_model: str | None
    vector_count: int | None
    processing_time_ms: int | None


class EmbeddingJob(Record, rename="camel"):
    """A document's job in the shape of the embedding service that Perdure replaces.

    Attributes:
        shard_id: the document's id. shard_type_id: its namespace.
        status: `processing` stands for running and waiting, `completed` for partial, too (`error` then tells of the chunks
            that are missing), `failed` for cancelled, too.
        retry_count: runs before the last one.
    """

    id: str
    tenant_id: str
    shard_id: str | None
    shard_type_id: str | None
    status: str
    retry_count: int
    error: str | None
    created_at: Moment
    updated_at: Moment
    completed_at: Moment | None
    metadata: EmbeddingMetadata

    @classmethod
    def of(cls, job: Job) -> Self:
        """Render a job."""
        counts: dict[str, Any] = wire.counts(job)
        told, took = wire.Status.of(job), None
        if job.started_at and job.completed_at:
            took = round((job.completed_at - job.started_at).total_seconds() * 1000)
        missing = len(told.failed_chunks)
        return cls(
            id=job.id,
            tenant_id=job.tenant,
            shard_id=told.document_id,
            shard_type_id=told.namespace,
            status=next(word for word, states in STATES.items() if job.state in states),
            retry_count=max(0, job.attempt + job.rescues - 1),
            error=job.failure.message if job.failure else f"{missing} chunks failed" if missing else None,
            created_at=job.created_at,
            updated_at=job.updated_at,
            completed_at=job.completed_at,
            metadata=EmbeddingMetadata(
                embedding_model=counts.get("model"),
                vector_count=told.chunks_stored,
                processing_time_ms=took,
            ),
        )


class EmbeddingJobs(Record, rename="camel"):
    """Embedding jobs, newest first. Give `nextCursor` as `cursor` for the next page; null at the end."""

    jobs: list[EmbeddingJob]
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page, query: JobFilter) -> Self:
        """Render a page of this list."""
        following = None if page.next is None else query.seal(page.next)
        return cls(jobs=[EmbeddingJob.of(job) for job in page.jobs], next_cursor=following)


class EmbeddingStats(Record):
    """How many embedding jobs a tenant has, by status."""

    stats: dict[str, int]

    @classmethod
    def of(cls, stats: Stats) -> Self:
        """Render counts."""
        found = stats.counts.get(KIND, {})
        return cls(
            stats={word: sum(found.get(state, 0) for state in states) for word, states in STATES.items()}
        )


@router.get("", responses=answers(EmbeddingJobs, 403))
async def find(query: Annotated[EmbeddingQuery, Query()], app: AppOf, tenant: TenantOf) -> Response:
    """List the jobs of documents in the camelCase shape of that service, newest first."""
    states = () if query.status is None else STATES[query.status]
    wanted = JobFilter(tenant=_agreed(query.tenantId, tenant), kinds=(KIND,), states=states)
    after = None if query.cursor is None else wanted.unseal(query.cursor)
    return reply(EmbeddingJobs.of(await app.jobs.page(wanted, limit=query.limit, after=after), wanted))


@router.get("/stats", responses=answers(EmbeddingStats, 403))
async def stats(
    app: AppOf,
    tenant: TenantOf,
    tenant_id: Annotated[Line | None, Query(alias="tenantId", description="The credential's own.")] = None,
) -> Response:
    """Count the jobs of documents by the words of that service."""
    return reply(EmbeddingStats.of(await app.jobs.stats(_agreed(tenant_id, tenant))))


def _agreed(named: str | None, tenant: str) -> str:
    """The tenant, which a parameter may name but not choose (see `admit`)."""
    if named not in (None, tenant):
        raise Forbidden(f"tenantId {named!r} is not the caller's tenant; leave it out, or use its own")
    return tenant
