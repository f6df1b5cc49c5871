"""Calls about jobs of any kind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from perdure.app import App
from perdure.domain.job import Job
from perdure.rest.bodies import (
    CancelRequest,
    EditRequest,
    JobQuery,
    JobRequest,
    ProgressRequest,
    RespondRequest,
    StatsQuery,
)
from perdure.rest.context import (
    ActorOf,
    AppOf,
    Guarded,
    JobId,
    JsonOnly,
    KeyOf,
    TenantOf,
    app_of,
    path_of,
    quickly,
    reply,
    tenant_of,
)
from perdure.rest.openapi import answers
from perdure.rest.waiting import WaitOf, patiently
from perdure.wire import Counts, History, JobPage, JobWhole

router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Guarded, dependencies=[JsonOnly])


@router.post("", status_code=202, responses=answers(JobWhole, 415, 422, status=202))
async def add(body: JobRequest, app: AppOf, tenant: TenantOf, key: KeyOf, request: Request) -> Response:
    """Add a job of a registered kind; it is durable when the answer comes."""
    job = await app.submit(body.kind, body.payload, tenant=tenant, idempotency_key=key, **body.options())
    return reply(JobWhole.of(job), 202, location=path_of(request, f"/v1/jobs/{job.id}"))


@router.get("", responses=answers(JobPage))
async def find(query: Annotated[JobQuery, Query()], app: AppOf, tenant: TenantOf) -> Response:
    """List jobs page by page, newest first unless `sort` says otherwise. A page costs the same wherever it lies."""
    wanted = query.filter(tenant)
    after = None if query.cursor is None else wanted.unseal(query.cursor)
    return reply(JobPage.of(await app.jobs.page(wanted, limit=query.limit, after=after), wanted))


@router.get("/stats", responses=answers(Counts))
async def stats(query: Annotated[StatsQuery, Query()], app: AppOf, tenant: TenantOf) -> Response:
    """Count the tenant's jobs by state and by kind; costs the same at any number of jobs, unless it is narrowed."""
    return reply(Counts.of(await app.jobs.stats(tenant, **query.model_dump())))


async def _show_at_once(request: Request) -> Response:
    job = await app_of(request).jobs.get(request.path_params["job_id"], tenant=tenant_of(request))
    return _shown(job, _tags(request.headers.get("if-none-match")))


@router.get("/{job_id}", responses=answers(JobWhole, 404) | {304: {"description": "As it was"}})
@quickly(_show_at_once)
async def show(
    job_id: JobId,
    request: Request,
    app: AppOf,
    tenant: TenantOf,
    wait: WaitOf = 0,
    if_none_match: Annotated[
        str | None,
        Header(
            description="`ETag` of an answer before: 304 as long as the job is the same, with `wait` once it is not."
        ),
    ] = None,
) -> Response:
    """Show one job: at once; with `wait` when it is finished, or has changed from what `If-None-Match` names."""
    known = _tags(if_none_match)
    job = await app.jobs.get(job_id, tenant=tenant)
    if wait and (_tag(job) in known if if_none_match else not job.finished):
        await patiently(
            request, _change(app, job) if if_none_match else app.jobs.wait(job.id, tenant=tenant), wait
        )
        job = await app.jobs.get(job_id, tenant=tenant)
    return _shown(job, known)


def _shown(job: Job, known: Collection[str]) -> Response:
    if _tag(job) in known or "*" in known:
        return Response(status_code=304, headers={"ETag": _tag(job)})
    return reply(JobWhole.of(job), headers={"ETag": _tag(job)})


def _tags(if_none_match: str | None) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in (if_none_match or "").split(",")}


def _tag(job: Job) -> str:
    return f'"{job.version}"'


async def _change(app: App, job: Job) -> None:
    async for now in app.jobs.watch(job.id, tenant=job.tenant):
        if now.version != job.version:
            return


@router.patch("/{job_id}", responses=answers(JobWhole, 404, 409, 415))
async def edit(job_id: JobId, body: EditRequest, app: AppOf, tenant: TenantOf, actor: ActorOf) -> Response:
    """Change an unfinished job; its history keeps what was."""
    job = await app.jobs.edit(job_id, tenant=tenant, actor=actor, **body.changes())
    return reply(JobWhole.of(job))


@router.post("/{job_id}/progress", responses=answers(JobWhole, 404, 409, 415))
async def report(job_id: JobId, body: ProgressRequest, app: AppOf, tenant: TenantOf) -> Response:
    """Tell how far a running job has come, for work that its handler waits for; the handler's own next word counts."""
    return reply(JobWhole.of(await app.jobs.report(job_id, tenant=tenant, **body.model_dump())))


@router.delete("/{job_id}", status_code=204, responses=answers(None, 404))
async def delete(job_id: JobId, app: AppOf, tenant: TenantOf, actor: ActorOf) -> None:
    """Remove a job with its history, in whatever state; vectors that it published stay."""
    await app.jobs.delete(job_id, tenant=tenant, actor=actor)


@router.post("/{job_id}/cancel", responses=answers(JobWhole, 404, 409, 415))
async def cancel(
    job_id: JobId, app: AppOf, tenant: TenantOf, actor: ActorOf, body: CancelRequest | None = None
) -> Response:
    """Call a job off. Cancelling it again answers the same."""
    reason = body.reason if body else ""
    job = await app.jobs.cancel(job_id, tenant=tenant, actor=actor, reason=reason)
    return reply(JobWhole.of(job))


@router.post("/{job_id}/retry", responses=answers(JobWhole, 404, 409))
async def retry(job_id: JobId, app: AppOf, tenant: TenantOf, actor: ActorOf) -> Response:
    """Send a failed, partial or cancelled job round again with fresh attempts."""
    return reply(JobWhole.of(await app.jobs.requeue(job_id, tenant=tenant, actor=actor)))


@router.post("/{job_id}/respond", responses=answers(JobWhole, 404, 409, 415))
async def respond(
    job_id: JobId, body: RespondRequest, app: AppOf, tenant: TenantOf, actor: ActorOf
) -> Response:
    """Answer a waiting job's question. The first answer counts; saying it again is a success."""
    job = await app.jobs.respond(job_id, body.answer, tenant=tenant, actor=actor, key=body.key)
    return reply(JobWhole.of(job))


@router.get("/{job_id}/history", responses=answers(History, 404))
async def history(job_id: JobId, app: AppOf, tenant: TenantOf) -> Response:
    """Tell all that happened to a job, oldest first."""
    return reply(History.of(await app.jobs.history(job_id, tenant=tenant)))
