"""The REST face in this process, called through its ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.faces import api, app, calls, worker

__all__ = ["api", "app", "calls", "worker"]


@pytest.fixture
async def client(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """Calls the app; a bug in it comes out as an exception."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://test") as client:
        yield client
