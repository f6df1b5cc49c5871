"""The REST face behind keys: nothing but probes without one, and each tenant its own."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from perdure.domain.access import Scope
from tests.unit.rest.calls import UNKNOWN, assert_problem

Client = httpx.AsyncClient


@pytest.fixture
async def token(app: App) -> str:
    _, token = await app.keys.create("ci", tenant="acme", scope=Scope.WRITE)
    app.keys._used = (app.jobs.clock.now(), True)  # the time until every process knows it
    return token


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


async def test_the_key_decides_whose_things_are_meant(client: Client, token: str) -> None:
    answer = await client.post("/v1/jobs", json={"kind": "a"}, headers=bearer(token) | {"X-Actor": "ann"})
    assert answer.status_code == 202, answer.text
    assert answer.json()["tenant"] == "acme"
    path = f"/v1/jobs/{answer.json()['id']}"
    await client.post(f"{path}/cancel", headers=bearer(token) | {"X-Actor": "ann"})
    history = (await client.get(f"{path}/history", headers=bearer(token))).json()["items"]
    assert history[-1]["actor"] == "ci/ann"
    other = await client.get(path, headers=bearer(token) | {"X-Tenant": "other"})
    assert "other" in assert_problem(other, 403, "forbidden")["detail"]


async def test_without_a_good_key_the_remedy_is_told(app: App, client: Client, token: str) -> None:
    _, old = await app.keys.create("old", tenant="acme", ttl=timedelta(microseconds=1))
    gone, revoked = await app.keys.create("gone", tenant="acme")
    await app.keys.revoke(gone.id)
    for headers in (
        {},
        bearer(""),
        bearer(token[:-1]),
        bearer(old),
        bearer(revoked),
        {"Authorization": token},
    ):
        answer = await client.get("/v1/jobs", headers=headers)
        assert "key" in assert_problem(answer, 401, "unauthenticated")["detail"]
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert token not in answer.text


async def test_a_key_that_may_read_does_not_write(app: App, client: Client, token: str) -> None:
    _, reader = await app.keys.create("reader", tenant="acme", scope=Scope.READ)
    for method, path in (
        ("POST", "/v1/jobs"),
        ("POST", "/v1/ingest"),
        ("DELETE", f"/v1/jobs/{UNKNOWN}"),
        ("POST", f"/v1/jobs/{UNKNOWN}/cancel"),
    ):
        answer = await client.request(method, path, json={"kind": "a"}, headers=bearer(reader))
        assert_problem(answer, 403, "forbidden")
    assert (await client.get("/v1/jobs", headers=bearer(reader))).status_code == 200
    answer = await client.post("/v1/search", json={"query": "leave"}, headers=bearer(reader))
    assert answer.status_code == 200


async def test_a_key_is_told_when_to_call_again(app: App, client: Client, token: str) -> None:
    _, slow = await app.keys.create("slow", tenant="acme", rate=0.1)
    assert (await client.get("/v1/jobs", headers=bearer(slow))).status_code == 200
    answer = await client.get("/v1/jobs", headers=bearer(slow))
    assert_problem(answer, 429, "rate-limited")
    assert 1 <= int(answer.headers["retry-after"]) <= 10


async def test_no_call_but_probes_and_pages_answers_without_a_key(
    api: FastAPI, client: Client, token: str
) -> None:
    """Whatever is added to the description later is asked, too."""
    seen = 0
    for path, item in api.openapi()["paths"].items():
        for method in item:
            url = path.replace("{document_id}", "d")
            for name in ("job_id", "namespace", "key_id"):
                url = url.replace(f"{{{name}}}", UNKNOWN)
            answer = await client.request(method, url, content=b"{", headers={"Content-Type": "x/y"})
            if path in {"/healthz", "/readyz"}:
                assert answer.status_code == 200
                continue
            assert_problem(answer, 401, "unauthenticated")
            seen += 1
    assert seen > 15
