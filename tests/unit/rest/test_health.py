"""Probes."""

from __future__ import annotations

import logging

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from perdure.domain.errors import StoreUnavailable
from tests.unit.rest.calls import assert_problem

Client = httpx.AsyncClient


async def test_a_server_that_works_is_alive_and_ready(client: Client) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    answer = await client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"store": "ok", "vectors": "ok"})


async def test_a_store_that_is_down_makes_it_not_ready_but_alive(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def now() -> None:
        raise StoreUnavailable("db.internal does not answer")

    monkeypatch.setattr(app.jobs.store, "now", now)
    with caplog.at_level(logging.WARNING, "perdure.rest"):
        answer = await client.get("/readyz")
    problem = assert_problem(answer, 503, "not-ready")
    assert problem["parts"] == {"store": "not ready", "vectors": "ok"}
    assert "db.internal" not in answer.text
    assert "db.internal" in caplog.text
    assert answer.headers["retry-after"]
    assert (await client.get("/healthz")).status_code == 200


async def test_a_server_that_stops_is_not_ready(api: FastAPI, client: Client) -> None:
    api.state.stopping.set()
    problem = assert_problem(await client.get("/readyz"), 503, "not-ready")
    assert problem["parts"]["server"] == "not ready"


async def test_the_front_door_tells_where_the_description_is(client: Client) -> None:
    assert "/openapi.json" in (await client.get("/")).text
