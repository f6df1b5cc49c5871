"""Many jobs in one call: all or none, each error by its line, and said twice it counts once."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from perdure.rest import create_app
from perdure.rest.batch import MAX_LINES
from perdure.settings import Settings
from tests.unit.rest.calls import assert_problem

Client = httpx.AsyncClient
NDJSON = {"Content-Type": "application/x-ndjson"}


def lines(*jobs: object) -> bytes:
    return b"".join(json.dumps(job).encode() + b"\n" for job in jobs)


async def send(client: Client, body: bytes | AsyncIterator[bytes], **headers: str) -> httpx.Response:
    return await client.post("/v1/jobs/batch", content=body, headers=NDJSON | headers)


async def test_ten_thousand_jobs_come_in_with_one_call(app: App) -> None:
    api = create_app(app)
    api.user_middleware[0].kwargs["upload_limit"] = 10_000_000

    async def pieces() -> AsyncIterator[bytes]:
        body = lines(*({"kind": "a", "payload": {"number": number}} for number in range(MAX_LINES)))
        for start in range(0, len(body), 65_536):
            yield body[start : start + 65_536]

    async with Client(transport=httpx.ASGITransport(app=api), base_url="http://test") as client:
        answer = await send(client, pieces())
        assert answer.status_code == 202, answer.text
        items = answer.json()["items"]
        assert len({item["id"] for item in items}) == MAX_LINES
        last = (await client.get(f"/v1/jobs/{items[-1]['id']}")).json()
        assert last["payload"] == {"number": MAX_LINES - 1}
        more = await send(client, lines(*({"kind": "a"} for _ in range(MAX_LINES + 1))))
        assert "10,000" in assert_problem(more, 400, "invalid-request")["detail"]


async def test_one_bad_line_refuses_all_and_is_named(app: App, client: Client) -> None:
    body = lines({"kind": "a"}, {"kind": "a", "color": "red"}) + b"{nonsense\n\n" + lines({"payload": {}})
    problem = assert_problem(await send(client, body), 400, "invalid-request")
    assert [fault["field"].partition(".")[0] for fault in problem["errors"]] == ["line 2", "line 3", "line 5"]
    for body in (lines({"kind": "a"}, {"kind": "vectorize"}), lines({"kind": "a"}, {"kind": "b c"})):
        assert_problem(await send(client, body), 400, "invalid-request")
    assert (await app.jobs.stats(None)).total == 0


async def test_said_twice_it_counts_once(client: Client) -> None:
    body = lines({"kind": "a", "idempotency_key": "own"}, {"kind": "b"}, {"kind": "c", "priority": 5})
    first = (await send(client, body, **{"Idempotency-Key": "k"})).json()
    assert (await send(client, body, **{"Idempotency-Key": "k"})).json() == first
    assert [item["idempotency_key"] for item in first["items"]] == ["own", "k:2", "k:3"]
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 3
    other = await send(client, lines({"kind": "a"}, {"kind": "z"}), **{"Idempotency-Key": "k"})
    assert_problem(other, 422, "idempotency-conflict")


@pytest.mark.parametrize("body", [b"", b"\n\n", b"x" * 1_100_000])
async def test_a_body_without_jobs_is_refused(api: FastAPI, client: Client, body: bytes) -> None:
    status, slug = (413, "too-large") if len(body) > 100_000 else (400, "invalid-request")
    assert_problem(await send(client, body), status, slug)


async def test_another_content_type_is_refused(client: Client) -> None:
    answer = await client.post("/v1/jobs/batch", json={"kind": "a"})
    assert "x-ndjson" in assert_problem(answer, 415, "unsupported-media-type")["detail"]


async def test_a_tenant_has_a_quota_of_pending_jobs() -> None:
    settings = Settings(store="memory:", embedder="hashing", max_pending_jobs=3)
    api = create_app(settings, worker=False)
    async with (
        api.router.lifespan_context(api),
        Client(transport=httpx.ASGITransport(app=api), base_url="http://test") as client,
    ):
        answer = await send(client, lines(*[{"kind": "a"}] * 4))
        assert_problem(answer, 429, "quota-exceeded")
        assert answer.headers["retry-after"] == "10"
        assert (await send(client, lines(*[{"kind": "a"}] * 3))).status_code == 202
        calls: list[dict[str, Any]] = [
            {"url": "/v1/jobs", "json": {"kind": "a"}},
            {"url": "/v1/ingest", "json": {"text": "one"}},
            {"url": "/v1/ingest", "files": {"file": ("a.txt", b"one")}},
        ]
        for call in calls:
            assert_problem(await client.post(**call), 429, "quota-exceeded")
        for call in calls:  # another tenant's is its own
            assert (await client.post(**call, headers={"X-Tenant": "other"})).status_code == 202


async def test_a_tenant_has_a_quota_of_stored_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("perdure.quotas.FRESH_SECONDS", 0)
    api = create_app(Settings(store="memory:", embedder="hashing", max_chunks=1), worker=True)
    async with (
        api.router.lifespan_context(api),
        Client(transport=httpx.ASGITransport(app=api), base_url="http://test") as client,
    ):
        first = (await client.post("/v1/ingest", json={"text": "one"})).json()["ingestion_id"]
        await client.get(f"/v1/jobs/{first}", params={"wait": 30})
        for call in ({"json": {"text": "two"}}, {"files": {"file": ("a.txt", b"two")}}):
            answer = await client.post("/v1/ingest", **call)
            problem = assert_problem(answer, 429, "quota-exceeded")
            assert "1 chunks stored and may have 1; delete documents" in problem["detail"]
            assert answer.headers["retry-after"] == "60"
        assert (await client.post("/v1/jobs", json={"kind": "a"})).status_code == 202
        assert (
            await client.post("/v1/ingest", json={"text": "1"}, headers={"X-Tenant": "b"})
        ).status_code == 202
