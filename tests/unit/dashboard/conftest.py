"""The pages in this process, looked at through the ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI

from tests.unit.faces import api, app, calls, worker

__all__ = ["api", "app", "calls", "worker"]


@pytest.fixture
async def browser(api: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client that keeps cookies, and has looked at a page."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://test") as client:
        await client.get("/")
        yield client
