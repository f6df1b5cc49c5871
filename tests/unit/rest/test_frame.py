"""What surrounds every call: headers, limits, and requests that a browser sends for somebody else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from perdure.app import App
from perdure.rest import create_app, frame
from perdure.rest.frame import MAX_JSON
from tests.unit.rest.calls import assert_problem

Client = httpx.AsyncClient


@pytest.mark.parametrize(
    "path", ["/healthz", "/v1/jobs", "/v1/nothing", "/openapi.json", "/problems/not-found", "/"]
)
async def test_every_answer_carries_the_security_headers(client: Client, path: str) -> None:
    headers = (await client.get(path, headers={"Origin": "https://evil.example"})).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src 'none'" in headers["content-security-policy"]
    assert not [name for name in headers if name.startswith("access-control")]


async def test_a_browser_may_not_write_for_another_site(client: Client) -> None:
    for site in ("cross-site", "same-site"):
        answer = await client.post(
            "/v1/ingest", files={"file": ("a.md", b"poison")}, headers={"Sec-Fetch-Site": site}
        )
        assert_problem(answer, 403, "cross-site-request")
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 0
    for site in ("same-origin", "none"):
        answer = await client.post("/v1/ingest", json={"text": "mine"}, headers={"Sec-Fetch-Site": site})
        assert answer.status_code == 202


async def test_a_name_that_a_foreign_page_could_bring_is_not_answered(app: App) -> None:
    """DNS rebinding: evil.example points to 127.0.0.1, so that for the browser it is all one site."""
    api = create_app(app, hosts={"127.0.0.1", "localhost", "::1"})
    for base, status in {
        "http://127.0.0.1:8321": 200,
        "http://localhost": 200,
        "http://[::1]:8321": 200,
        "http://evil.example:8321": 421,
        "http://127.0.0.1.evil.example": 421,
    }.items():
        async with Client(transport=httpx.ASGITransport(app=api), base_url=base) as client:
            answer = await client.get("/v1/jobs")
        assert answer.status_code == status, base


async def test_too_much_json_is_refused_with_the_remedy(client: Client) -> None:
    body = b'{"text": "' + b"x" * 200_000 + b'"}'
    for path in ("/v1/ingest", "/v1/jobs", "/v1/search"):
        json = {"Content-Type": "application/json"}
        problem = assert_problem(await client.post(path, content=body, headers=json), 413, "too-large")
        assert "upload" in problem["detail"]
        answer = await client.post(path, content=_pieces(body), headers=json)
        assert_problem(answer, 413, "too-large")
    assert MAX_JSON > 100_000  # the limit that was met is the smaller one, of uploads


async def _pieces(body: bytes):  # type: ignore[no-untyped-def]  # an async generator of bytes
    for start in range(0, len(body), 10_000):
        yield body[start : start + 10_000]


async def test_it_works_behind_a_prefix(api: FastAPI) -> None:
    outer = FastAPI()
    outer.mount("/perdure", api)
    async with Client(transport=httpx.ASGITransport(app=outer), base_url="http://test") as client:
        answer = await client.post("/perdure/v1/ingest", json={"text": "mine"})
        assert answer.headers["location"].startswith("/perdure/v1/status/")
        assert (await client.get(answer.json()["status_url"])).status_code == 200
        job = await client.post("/perdure/v1/jobs", json={"kind": "a"})
        assert (await client.get(job.headers["location"])).status_code == 200


async def test_a_body_that_does_not_come_is_not_waited_for(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frame, "BODY_PAUSE", 0.02)

    async def stuck() -> AsyncIterator[bytes]:
        yield b"--X\r\n"
        await asyncio.sleep(30)

    for path, sent in (("/v1/jobs", "application/json"), ("/v1/ingest", "multipart/form-data; boundary=X")):
        answer = await client.post(path, content=stuck(), headers={"Content-Type": sent})
        assert_problem(answer, 408, "too-slow")


async def test_a_body_that_drips_is_not_waited_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(frame, "_clock", lambda: float(next(clock)))

    async def drops() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b" "

    answer = await client.post("/v1/jobs", content=drops(), headers={"Content-Type": "application/json"})
    assert_problem(answer, 408, "too-slow")


async def test_pages_of_named_origins_may_call_and_no_others(app: App) -> None:
    app.settings = msgspec.structs.replace(app.settings, cors_origins="https://a.example, https://b.example")
    api = create_app(app)
    async with Client(transport=httpx.ASGITransport(app=api), base_url="http://test") as client:
        for origin, allowed in {"https://b.example": True, "https://evil.example": False}.items():
            asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
            answer = await client.options("/v1/jobs", headers=asks)
            assert (answer.status_code == 200) is allowed
            site = {"Origin": origin, "Sec-Fetch-Site": "cross-site"}
            answer = await client.post("/v1/jobs", json={"kind": "a"}, headers=site)
            assert answer.status_code == (202 if allowed else 403)
            assert answer.headers.get("access-control-allow-origin") == (origin if allowed else None)
