"""The calls of the embedding service that Perdure replaces, in its own shape: who asked it goes on asking."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from perdure.domain.errors import Forbidden
from perdure.domain.query import JobFilter
from perdure.ingestion import KIND
from perdure.rest.bodies import EmbeddingQuery, Line
from perdure.rest.context import AppOf, Guarded, TenantOf, reply
from perdure.rest.openapi import answers
from perdure.wire import EMBEDDING_STATES, EmbeddingJobs, EmbeddingStats

router = APIRouter(prefix="/api/v1/embedding-jobs", tags=["jobs"], route_class=Guarded)


@router.get("", responses=answers(EmbeddingJobs, 403))
async def find(query: Annotated[EmbeddingQuery, Query()], app: AppOf, tenant: TenantOf) -> Response:
    """List the jobs of documents in the camelCase shape of that service, newest first."""
    states = () if query.status is None else EMBEDDING_STATES[query.status]
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
