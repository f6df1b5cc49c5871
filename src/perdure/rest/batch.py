"""A batch of jobs, read line by line as it arrives: each is checked and let go, so that no text is held twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Final

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from perdure.domain.errors import InvalidInput
from perdure.rest.bodies import BatchLine
from perdure.rest.context import AppOf, Guarded, KeyOf, TenantOf, media_type_of, reply
from perdure.rest.openapi import answers, batch_body
from perdure.wire import Batch

MEDIA_TYPE: Final = "application/x-ndjson"
MAX_LINES: Final = 10_000
_MAX_LINE: Final = 1_000_000
_MAX_FAULTS: Final = 100


router = APIRouter(prefix="/v1/jobs", tags=["jobs"], route_class=Guarded)


@router.post(
    "/batch",
    status_code=202,
    responses=answers(Batch, 413, 415, 422, 429, status=202),
    openapi_extra=batch_body(),
)
async def add_batch(request: Request, app: AppOf, tenant: TenantOf, key: KeyOf) -> Response:
    """Add up to 10,000 jobs: NDJSON, a job a line, all or none; durable when the answer comes.

    One line that does not fit refuses them all, and `errors` names up to 100 such lines. With an `Idempotency-Key` the same
    request adds nothing a second time, and answers with the same ids.
    """
    jobs = await read_batch(request, key)
    return reply(Batch.of(await app.submit_many(jobs, tenant=tenant)), 202)


async def read_batch(request: Request, key: str | None) -> list[dict[str, Any]]:
    """The jobs, each as the arguments of `App.submit`.

    Args:
        key: the call's; lines that bring none get one made of it and their number.

    Raises:
        RequestValidationError: some lines do not fit; up to 100 are named.
        InvalidInput: there are none, too many, or one is too long.
    """
    if (sent := media_type_of(request)) != MEDIA_TYPE:
        raise HTTPException(
            415, f"the body is {sent or 'of no Content-Type'}; send {MEDIA_TYPE}, a job a line"
        )
    jobs: list[dict[str, Any]] = []
    faults: list[dict[str, Any]] = []
    number = 0
    async for line in _lines(request):
        number += 1
        if not line.strip():
            continue
        try:
            job = BatchLine.model_validate_json(line).options()
        except ValidationError as error:
            faults += [
                {**fault, "loc": ("body", f"line {number}", *fault["loc"])} for fault in error.errors()
            ]
            if len(faults) >= _MAX_FAULTS:
                break
            continue
        if key is not None and job["idempotency_key"] is None:
            job["idempotency_key"] = f"{key}:{number}"
        jobs.append(job)
        if len(jobs) > MAX_LINES:
            raise InvalidInput(f"there are more than {MAX_LINES:,} jobs; send them in several calls")
    if faults:
        raise RequestValidationError(faults[:_MAX_FAULTS])
    if not jobs:
        raise InvalidInput("there is no job in the body; send one JSON object a line")
    return jobs


async def _lines(request: Request) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for data in request.stream():
        rest += data
        *lines, rest = rest.split(b"\n")
        for line in lines:
            yield bytes(line)
        if len(rest) > _MAX_LINE:
            raise InvalidInput(f"a line is longer than {_MAX_LINE:,} bytes; end each job with a line feed")
    yield bytes(rest)
