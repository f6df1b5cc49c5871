"""Probes, and numbers."""

from __future__ import annotations

import logging

from fastapi import APIRouter, Request, Response

from perdure.domain.access import Scope
from perdure.rest.context import AppOf, admit
from perdure.rest.openapi import answers
from perdure.rest.problems import problem
from perdure.telemetry.metrics import CONTENT_TYPE

log = logging.getLogger(__name__)

router = APIRouter(tags=["probes"])


@router.get("/healthz", responses=answers(None))
async def alive() -> dict[str, str]:
    """Tell that the process answers; it asks nothing else."""
    return {"status": "ok"}


@router.get("/readyz", response_model=dict[str, str], responses=answers(None))
async def ready(request: Request, app: AppOf) -> dict[str, str] | Response:
    """Tell whether the parts that the server needs answer; 503 names the one that does not."""
    told = await app.health()
    if request.app.state.stopping.is_set():
        told |= {"server": "stopping"}
    wrong = {part: what for part, what in told.items() if what != "ok"}
    if not wrong:
        return told
    # The reasons may name hosts and paths: they go to the log.
    log.warning("not ready: %s", "; ".join(f"{part}: {what}" for part, what in wrong.items()))
    parts = {part: "ok" if part not in wrong else "not ready" for part in told}
    detail = f"{', '.join(wrong)}: not ready; the server's log has the reason"
    return problem("not-ready", detail, request.scope["path"], headers={"Retry-After": "2"}, parts=parts)


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request, app: AppOf) -> Response:
    """Tell Prometheus; where callers need keys, one that is an admin's."""
    await admit(request, Scope.ADMIN)
    return Response(await app.metrics.scrape(), media_type=CONTENT_TYPE)
