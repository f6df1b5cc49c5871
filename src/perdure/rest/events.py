"""Server-sent events: what happens to jobs, as it happens, from any replica.

Each event's `id` is its position: who comes back with it as `Last-Event-ID`, to whatever replica, misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Header, Request, Response
from starlette.types import Receive, Scope, Send

from perdure import wire
from perdure.domain.access import Scope as Access
from perdure.domain.errors import (
    CursorLost,
    Forbidden,
    InvalidInput,
    NotFound,
    RateLimited,
    SlowFollower,
    StoreError,
    Unauthenticated,
)
from perdure.domain.log import JobEvent
from perdure.rest.context import AppOf, Guarded, JobId, TenantOf, admit
from perdure.rest.openapi import stream
from perdure.rest.waiting import gone

log = logging.getLogger(__name__)

HEARTBEAT: Final = 15.0
"""Seconds between two comments that keep proxies from closing, and two looks at whether the credential is still good."""
STALL: Final = 30.0
"""Seconds that a client may leave an event untaken."""
RETRY_MS: Final = 2000

_ENDS: Final = (Unauthenticated, Forbidden, NotFound, SlowFollower, StoreError, TimeoutError)
"""What ends a stream in good order: the client comes back with its position, or hears why it may not."""

router = APIRouter(prefix="/v1", tags=["jobs"], route_class=Guarded)
LastEvent = Annotated[
    str | None, Header(description="`id` of the last event that is known; what came after it is told first.")
]
Events = AsyncGenerator[JobEvent, None]


@router.get("/events", responses=stream())
async def tenants_events(
    request: Request, app: AppOf, tenant: TenantOf, last_event_id: LastEvent = None
) -> Response:
    """Follow all jobs of the tenant, for as long as the connection lasts. Those of one job come in order."""
    if last_event_id:
        app.events.check_position(last_event_id)
    return EventStream(request, lambda after: app.events.follow(tenant, after), last_event_id or None)


@router.get("/jobs/{job_id}/events", responses=stream(404) | {204: {"description": "All is told"}})
async def events_of_one(
    job_id: JobId, request: Request, app: AppOf, tenant: TenantOf, last_event_id: LastEvent = None
) -> Response:
    """Follow one job from its beginning to its end; 204, which ends an `EventSource`, if it is finished and all is known."""

    def follow(after: str | None) -> Events:
        return app.events.follow_job(job_id, tenant=tenant, after=after)

    job = await app.jobs.get(job_id, tenant=tenant)
    if job.finished and last_event_id and not [event async for event in follow(last_event_id)]:
        return Response(status_code=204)
    return EventStream(request, follow, last_event_id or None)


class EventStream(Response):
    """An answer that goes on until the events end, the client has gone or is stuck, or the server stops."""

    media_type = "text/event-stream"

    def __init__(self, request: Request, follow: Callable[[str | None], Events], after: str | None) -> None:
        super().__init__(headers={"X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._request = request
        self._follow = follow
        self._after = after

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events as they come."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _write(send, f"retry: {RETRY_MS}\n\n")
        telling = asyncio.create_task(self._tell(send))
        ends = (telling, asyncio.create_task(gone(self._request)), asyncio.create_task(self._stopping()))
        try:
            while not (await asyncio.wait(ends, timeout=HEARTBEAT, return_when=asyncio.FIRST_COMPLETED))[0]:
                await self._still()
                await _write(send, ": \n\n")
            if telling.done() and (error := telling.exception()):
                raise error
            await _write(send, "", more=False)
        except _ENDS as error:
            log.info("%s: the stream ends: %s", scope["path"], str(error) or "the client takes nothing")
        finally:
            for task in ends:
                task.cancel()
            await asyncio.gather(*ends, return_exceptions=True)

    async def _stopping(self) -> None:
        await self._request.app.state.stopping.wait()

    async def _still(self) -> None:
        """Look whether the credential is good still; a rate that is used up meanwhile ends nothing."""
        with suppress(RateLimited):
            await admit(self._request, Access.READ)

    async def _tell(self, send: Send) -> None:
        """Send events; one that tells of a gap where the log is not kept so far back."""
        try:
            await self._pass(self._follow(self._after), send)
        except (CursorLost, InvalidInput) as error:
            await _write(send, f"event: gap\ndata: {msgspec.json.encode(str(error)).decode()}\n\n")
            await self._pass(self._follow(None), send)

    async def _pass(self, events: Events, send: Send) -> None:
        async with aclosing(events):
            async for event in events:
                data = msgspec.json.encode(wire.EventLine.of(event)).decode()
                await _write(send, f"id: {event.position}\ndata: {data}\n\n")


async def _write(send: Send, text: str, *, more: bool = True) -> None:
    """Send a piece.

    Raises:
        TimeoutError: the client does not take it.
    """
    async with asyncio.timeout(STALL):
        await send({"type": "http.response.body", "body": text.encode(), "more_body": more})
