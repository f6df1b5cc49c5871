"""Every call × another tenant's things: 404, as if they were not there. The calls come from the description itself."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

import perdure
from perdure.app import App
from perdure.core import webhooks
from perdure.core.context import Context
from perdure.domain.job import NewJob
from perdure.rest import create_app
from perdure.settings import Settings

OWN, FOREIGN = "acme", "other"
BODIES: dict[str, dict[str, Any]] = {
    "PATCH /v1/jobs/{job_id}": {"priority": 5},
    "POST /v1/jobs/{job_id}/progress": {"fraction": 0.5},
    "POST /v1/jobs/{job_id}/respond": {"answer": "yes"},
}
"""What calls need beside the id to be good in all else."""

LISTS = {
    "GET /v1/jobs",
    "GET /v1/jobs/stats",
    "GET /v1/documents",
    "GET /api/v1/embedding-jobs",
    "GET /api/v1/embedding-jobs/stats",
    "GET /v1/webhooks",
}


@pytest.fixture(params=["memory", "sqlite"])
async def app(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[App]:
    store = "memory:" if request.param == "memory" else f"sqlite:///{tmp_path / 'p.db'}"
    async with perdure.open(settings=Settings(store=store, embedder="hashing", poll_seconds=0.05)) as app:
        yield app


@pytest.fixture
async def client(app: App) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def key(app: App, tenant: str) -> dict[str, str]:
    _, token = await app.keys.create(tenant, tenant=tenant)
    app.keys._used = (app.jobs.clock.now(), True)
    return {"Authorization": f"Bearer {token}"}


async def things(app: App) -> dict[str, list[str]]:
    """A tenant's jobs in several states, a document, by the parameter that names them."""

    @app.handler("ask")
    async def ask(ctx: Context) -> Any:
        return await ctx.ask("Publish?", choices=["yes", "no"], deadline="2d", default="no")

    document = await app.ingest_text("Leave is 30 days.", document_id="leave", tenant=OWN)
    await app.wait(document.id, tenant=OWN, timeout=30)
    asked = await app.submit("ask", tenant=OWN)
    async for job in app.jobs.watch(asked.id, tenant=OWN):
        if job.questions:
            break
    pending = await app.submit("nobody", tenant=OWN)
    running = await app.submit("claimed", tenant=OWN)
    await app.jobs.store.claim("w", ["claimed"], 1, timedelta(minutes=5))
    cancelled = await app.submit("nobody", tenant=OWN)
    await app.jobs.cancel(cancelled.id, tenant=OWN)
    jobs = [job.id for job in (document, asked, pending, running, cancelled)]
    webhook = await app.webhooks.subscribe("https://example.com/hook", tenant=OWN)
    later = app.jobs.clock.now() + timedelta(days=1)
    delivery = await app.jobs.add(NewJob(kind=webhooks.KIND, tenant=OWN, user_id=webhook.id, run_at=later))
    return {
        "job_id": [*jobs, delivery.id],
        "document_id": ["leave"],
        "webhook_id": [webhook.id],
        "delivery_id": [delivery.id],
    }


async def test_no_call_touches_another_tenants_things(app: App, client: httpx.AsyncClient) -> None:
    own, foreign = await key(app, OWN), await key(app, FOREIGN)
    named = await things(app)
    before = await everything(client, own)
    description = (await client.get("/openapi.json")).json()
    seen = 0
    for path, item in description["paths"].items():
        for method in map(str.upper, item):
            if "{" not in path:
                continue
            [parameter] = re.findall(r"{(\w+)}", path)
            for thing in named[parameter]:
                answer = await client.request(
                    method,
                    path.replace(f"{{{parameter}}}", thing),
                    json=BODIES.get(f"{method} {path}"),
                    headers=foreign,
                )
                assert answer.status_code == 404, (method, path, thing, answer.text)
                assert OWN not in answer.text
                seen += 1
    assert seen > 60
    assert await everything(client, own) == before


async def test_lists_hold_nothing_of_another_tenant(app: App, client: httpx.AsyncClient) -> None:
    foreign = await key(app, FOREIGN)
    named = await things(app)
    description = (await client.get("/openapi.json")).json()
    for call in sorted(LISTS):
        method, path = call.split()
        assert method.lower() in description["paths"][path]
        answer = await client.get(path, headers=foreign)
        assert answer.status_code == 200, (path, answer.text)
        assert not [thing for things in named.values() for thing in things if thing in answer.text]
        assert not any(number for number in _numbers(answer.json()))
    found = await client.post("/v1/search", json={"query": "leave"}, headers=foreign)
    assert found.json() == {"hits": []}


def _numbers(node: object) -> list[int]:
    match node:
        case bool() | None | str():
            return []
        case int():
            return [node]
        case dict():
            return [number for value in node.values() for number in _numbers(value)]
        case list():
            return [number for value in node for number in _numbers(value)]
    raise AssertionError(node)


async def everything(client: httpx.AsyncClient, own: dict[str, str]) -> list[Any]:
    """All that a tenant sees, as far as nobody but its callers changes it."""
    hooks = (await client.get("/v1/webhooks", headers=own)).json()
    jobs = (await client.get("/v1/jobs", headers=own)).json()["items"]
    told: list[Any] = [hooks, *((job["id"], job["status"], job["priority"]) for job in jobs)]
    told += [(await client.get(f"/v1/jobs/{job['id']}/history", headers=own)).json() for job in jobs]
    told.append((await client.get("/v1/documents", headers=own)).json())
    return told
