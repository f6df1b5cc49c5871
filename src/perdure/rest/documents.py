"""Calls that bring documents in, tell how far they have come, find them, and take them away."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.convertors import PathConvertor, register_url_convertor

from perdure import wire
from perdure.app import App
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import Deferred, NotFound
from perdure.domain.job import Job
from perdure.ledger import ChunkPage, ChunkState
from perdure.orders import KIND
from perdure.rest.bodies import Line, Namespace, SearchRequest, TextRequest, UploadFields
from perdure.rest.context import (
    AppOf,
    Guarded,
    JobId,
    JsonOnly,
    KeyOf,
    TenantOf,
    looks,
    media_type_of,
    path_of,
    reply,
)
from perdure.rest.openapi import answers, ingest_body
from perdure.rest.upload import Upload
from perdure.rest.waiting import WaitOf, patiently


class _Whole(PathConvertor):
    """The rest of a path, line feeds among it: a document may have any name."""

    regex = "(?s:.*)"


register_url_convertor("whole", _Whole())
router = APIRouter(prefix="/v1", tags=["documents"], route_class=Guarded)

LATER: dict[int | str, Any] = {202: answers(wire.Deferred, status=202)[202]}
NamespaceOf = Annotated[Namespace, Query()]


@router.post(
    "/ingest",
    status_code=202,
    responses=answers(wire.Accepted, 413, 415, 422, status=202),
    openapi_extra=ingest_body(),
)
async def ingest(request: Request, app: AppOf, tenant: TenantOf, key: KeyOf) -> Response:
    """Take a document: a text as JSON, or a file as an upload. It is durable when the answer comes."""
    try:
        match sent := media_type_of(request):
            case "application/json":
                body = TextRequest.model_validate_json(await request.body())
                job = await app.ingest_text(**body.model_dump(), tenant=tenant, idempotency_key=key)
            case "multipart/form-data":
                job = await _ingest_file(request, app, tenant, key)
            case _:
                what = f"is {sent}" if sent else "has no Content-Type"
                raise HTTPException(415, f"the body {what}; send application/json or multipart/form-data")
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from None
    url = path_of(request, f"/v1/status/{job.id}")
    return reply(wire.Accepted.of(job, url), 202, location=url)


async def _ingest_file(request: Request, app: App, tenant: str, key: str | None) -> Job:
    upload = await Upload.open(request)

    def options() -> dict[str, Any]:
        fields = UploadFields.model_validate(upload.fields())
        return fields.model_dump() | {"media_type": fields.media_type or upload.media_type}

    async def pieces() -> AsyncIterator[bytes]:
        async for piece in upload.pieces():
            yield piece
        options()  # fields after the file that do not fit are refused while nothing is stored yet

    options()  # those before it, before the file is read
    return await app.ingest_stream(
        pieces(), name=upload.name, late=options, tenant=tenant, idempotency_key=key
    )


@router.get("/ingest/{job_id}", responses=answers(wire.Status, 404))
async def ingestion(job_id: JobId, app: AppOf, tenant: TenantOf) -> Response:
    """Tell how far a document has come."""
    job = await app.jobs.get(job_id, tenant=tenant)
    if job.kind != KIND:
        raise NotFound(f"job {job_id} is no ingestion but of kind {job.kind!r}; see GET /v1/jobs/{job_id}")
    return reply(wire.Status.of(job))


@router.get("/ingest/{job_id}/chunks", responses=answers(ChunkPage, 404))
async def chunks(
    job_id: JobId,
    app: AppOf,
    tenant: TenantOf,
    state: ChunkState | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[int, Query(ge=-1, lt=2**31, description="`next_cursor` of the page before.")] = -1,
) -> Response:
    """List what became of each chunk of a document: those that failed for good with their reason, by `state=failed`."""
    page = await app.ledger.chunks_of(job_id, state=state, limit=limit, after=cursor, tenant=tenant)
    return reply(page)


@router.get("/status/{job_id}", responses=answers(wire.Status, 404))
async def status(
    job_id: JobId,
    request: Request,
    app: AppOf,
    tenant: TenantOf,
    wait: WaitOf = 0,
) -> Response:
    """Tell how far a job of any kind has come, at once or, with `wait`, when it is finished."""
    if wait:
        await patiently(request, app.jobs.wait(job_id, tenant=tenant), wait)
    # However the wait ended, this reading tells the truth, or raises what is wrong.
    return reply(wire.Status.of(await app.jobs.get(job_id, tenant=tenant)))


@router.delete("/ingest/{job_id}", responses=answers(wire.Deleted, 404) | LATER)
async def delete_ingestion(request: Request, job_id: JobId, app: AppOf, tenant: TenantOf) -> Response:
    """Take away what one ingestion brought, and cancel it if it is under way. A newer version of the document stays."""
    return await _deleted(request, app.delete_ingestion(job_id, tenant=tenant))


async def _deleted(request: Request, deletion: Awaitable[int]) -> Response:
    """200 once it is done; 202 where a job will do it."""
    try:
        return reply(wire.Deleted(chunks_deleted=await deletion))
    except Deferred as noted:
        url = path_of(request, f"/v1/status/{noted.job_id}")
        return reply(wire.Deferred(job_id=noted.job_id, status_url=url), 202, location=url)


@router.get("/documents", responses=answers(wire.DocumentPage))
async def documents(
    app: AppOf,
    tenant: TenantOf,
    namespace: NamespaceOf = DEFAULT_NAMESPACE,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    cursor: Annotated[Line | None, Query(description="`next_cursor` of the page before.")] = None,
) -> Response:
    """List the documents that searches find, by id."""
    found = await app.documents.documents(tenant, namespace, limit + 1, cursor)
    return reply(wire.DocumentPage.of(found, limit))


@router.delete("/documents/{document_id:whole}", responses=answers(wire.Deleted, 404) | LATER)
async def delete_document(
    request: Request,
    document_id: Line,
    app: AppOf,
    tenant: TenantOf,
    namespace: NamespaceOf = DEFAULT_NAMESPACE,
    version: Annotated[
        int | None, Query(ge=0, lt=2**63, description="Only versions up to this one, come yet or not.")
    ] = None,
) -> Response:
    """Take a document away in all versions, and cancel what is under way for it."""
    deletion = app.delete_document(document_id, namespace=namespace, tenant=tenant, version=version)
    return await _deleted(request, deletion)


@router.post("/search", responses=answers(wire.Hits, 409, 415, 502), dependencies=[JsonOnly])
@looks
async def search(body: SearchRequest, app: AppOf, tenant: TenantOf) -> Response:
    """Find the chunks that answer a question best, best first."""
    options = body.model_dump(exclude={"filter"})
    return reply(wire.Hits.of(await app.search(**options, where=body.filter, tenant=tenant)))
