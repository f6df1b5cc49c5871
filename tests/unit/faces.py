"""What the tests of all faces start from: a real app in memory, and the calls of HTTP around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import FastAPI

import perdure
from perdure.app import App
from perdure.rest import create_app
from perdure.settings import Settings

SETTINGS = Settings(
    store="memory:", embedder="hashing", poll_seconds=0.05, grace_seconds=0.5, max_upload_bytes=100_000
)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    """An app in which nothing runs unless a test starts `worker`."""
    async with perdure.open(settings=SETTINGS, worker=False) as app:
        yield app


@pytest.fixture
async def worker(app: App) -> AsyncIterator[None]:
    """Runs the app's jobs."""
    worker = app.make_worker()
    running = asyncio.create_task(worker.run())
    yield
    worker.stop()
    await running


@pytest.fixture(scope="session")
def calls() -> FastAPI:
    """Made once: what the framework works out at the first call takes longer than most tests."""
    return create_app(SETTINGS)


@pytest.fixture
async def api(calls: FastAPI, app: App) -> FastAPI:
    """The calls, around this test's app."""
    calls.state.perdure, calls.state.stopping = app, asyncio.Event()
    return calls
