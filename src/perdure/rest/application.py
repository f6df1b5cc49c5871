"""The ASGI application: the calls, around one app."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

import perdure
from perdure import dashboard
from perdure.app import App
from perdure.rest import batch, documents, embedding, events, feeds, health, jobs, openapi, problems, webhooks
from perdure.rest.frame import Frame
from perdure.settings import Settings

_CORS: Final[dict[str, Any]] = {
    "allow_methods": ("GET", "POST", "PATCH", "DELETE"),
    "allow_headers": (
        *("Authorization", "Content-Type", "Idempotency-Key", "If-None-Match", "Last-Event-ID"),
        *("X-Actor", "X-Tenant"),
    ),
    "expose_headers": ("ETag", "Location", "Retry-After"),
}


def create_app(
    source: App | Settings | None = None, *, worker: bool = True, hosts: Collection[str] | None = None
) -> FastAPI:
    """Make the ASGI application.

    Args:
        source: an open app, which stays the caller's and stays open; or settings, of which an app is opened when
            the server starts and closed, its worker drained, when it stops. None: the environment's settings.
        worker: with settings: whether jobs also run inside this process.
        hosts: the host names under which it answers (`Host`, without the port); None: under any.

    Raises:
        InvalidInput: the environment holds a setting that does not fit.
    """
    given = source if isinstance(source, App) else None
    settings = given.settings if given is not None else source
    if not isinstance(settings, Settings):
        settings = Settings.from_environ(os.environ)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        async with perdure.open(settings=settings, worker=worker) as app:
            api.state.perdure = app
            yield

    api = openapi.Api(
        title="Perdure",
        version=openapi.VERSION,
        description=openapi.ABOUT,
        openapi_tags=openapi.TAGS,
        lifespan=lifespan if given is None else None,
        # The pages that the framework brings load their code from other people's servers.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    api.state.perdure = given
    api.state.stopping = asyncio.Event()
    problems.install(api)
    origins = frozenset(filter(None, settings.cors_origins.replace(" ", "").split(",")))
    api.add_middleware(Frame, upload_limit=settings.max_upload_bytes, hosts=hosts, origins=origins)
    if origins:
        api.add_middleware(CORSMiddleware, allow_origins=origins, **_CORS)
    for router in (
        jobs.router,  # first: whoever waits for a job asks for it again and again
        documents.router,
        batch.router,
        events.router,
        embedding.router,
        webhooks.router,
        feeds.router,
        health.router,
    ):
        api.include_router(router)
    dashboard.install(api)
    return api
