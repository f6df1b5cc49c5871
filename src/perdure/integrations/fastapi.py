"""Perdure inside a FastAPI application of yours (extra `rest`)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request

import perdure
from perdure.app import App


def lifespan(
    store: str | None = None, *, register: Callable[[App], object] | None = None, **options: Any
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Open an app while the application runs: ``FastAPI(lifespan=lifespan("sqlite:///perdure.db"))``.

    Its worker is drained when the application stops.

    Args:
        store, options: as of `perdure.open`.
        register: called with the app before it is opened, to register handlers.
    """

    @asynccontextmanager
    async def open_while_running(api: FastAPI) -> AsyncIterator[None]:
        app = perdure.open(store, **options)
        if register is not None:
            register(app)
        async with app:
            api.state.perdure = app
            yield

    return open_while_running


def _app(request: Request) -> App:
    app = getattr(request.app.state, "perdure", None)
    if not isinstance(app, App):
        raise RuntimeError("no app is open; make the application with FastAPI(lifespan=lifespan(…))")
    return app


PerdureApp = Annotated[App, Depends(_app)]
"""The open app, as the parameter of an endpoint: ``async def add(app: PerdureApp)``."""
