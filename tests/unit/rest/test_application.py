"""The application by itself: opened from settings, or mounted into another one as the manual shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from perdure.rest import create_app
from perdure.settings import Settings
from tests.unit.rest.calls import finished, ingest

Client = httpx.AsyncClient
MANUAL = Path(__file__).parents[3] / "docs" / "how-to" / "serve.md"


async def test_from_settings_it_opens_an_app_and_runs_its_jobs() -> None:
    api = create_app(Settings(store="memory:", embedder="hashing", poll_seconds=0.05))
    async with running(api), calling(api) as client:
        accepted = await ingest(client, "Leave is 30 days.")
        assert (await finished(client, accepted["job_id"]))["status"] == "completed"


async def test_without_settings_it_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_STORE", "memory:")
    monkeypatch.setenv("PERDURE_EMBEDDER", "hashing")
    api = create_app(worker=False)
    async with running(api), calling(api) as client:
        accepted = await ingest(client, "Leave is 30 days.")
        assert (await client.get(accepted["status_url"])).json()["status"] == "pending"


async def test_the_example_of_the_manual_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PERDURE_STORE", "memory:")
    found = re.search(r"```python\n(.*?)```", MANUAL.read_text(), re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(found[1], names)
    async with running(names["api"]), calling(names["api"]) as client:
        assert (await client.get("/perdure/readyz")).status_code == 200


def running(api: FastAPI) -> Any:
    """Do what a server does at its start and end."""
    return api.router.lifespan_context(api)


def calling(api: FastAPI) -> Client:
    return Client(transport=httpx.ASGITransport(app=api), base_url="http://test")
