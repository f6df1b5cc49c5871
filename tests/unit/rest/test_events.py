"""Server-sent events: told in order, resumed, kept alive, and ended when they must."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from perdure.rest import events
from tests.unit.rest.calls import UNKNOWN, assert_problem

Client = httpx.AsyncClient


class Stream:
    """One client that listens; `taken` says whether it takes what comes."""

    def __init__(self) -> None:
        self.taken = asyncio.Event()
        self.taken.set()
        self.left = asyncio.Event()
        self.status = 0
        self.ended = False
        self.headers: dict[bytes, bytes] = {}
        self._pieces = asyncio.Queue[str]()
        self._asked = False

    async def receive(self) -> dict[str, Any]:
        if not self._asked:
            self._asked = True
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        await self.taken.wait()
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.ended = not message.get("more_body", False)
            self._pieces.put_nowait(message["body"].decode())

    async def raw(self) -> str:
        """The next piece."""
        return await asyncio.wait_for(self._pieces.get(), 10)

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next event: its id, and its data."""
        while True:
            fields = dict(line.partition(": ")[::2] for line in (await self.raw()).splitlines())
            if "id" in fields:
                return fields["id"], json.loads(fields["data"])


@asynccontextmanager
async def listening(api: FastAPI, path: str, **headers: str) -> AsyncIterator[Stream]:
    stream = Stream()
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": path,
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
    }
    answering = asyncio.create_task(api(scope, stream.receive, stream.send))  # type: ignore[arg-type]
    try:
        yield stream
    finally:
        stream.left.set()
        await asyncio.wait_for(answering, 10)


async def test_a_job_is_followed_from_its_beginning_to_its_end(
    app: App, api: FastAPI, client: Client, worker: None
) -> None:
    app.handler("echo")(lambda ctx: "done")
    job = await app.submit("echo")
    async with listening(api, f"/v1/jobs/{job.id}/events") as stream:
        assert await stream.raw() == "retry: 2000\n\n"
        assert stream.headers[b"content-type"].startswith(b"text/event-stream")
        assert stream.headers[b"cache-control"] == b"no-store"
        heard = [await stream.event() for _ in range(3)]
        assert await stream.raw() == ""
        assert stream.ended
    assert [data["event"] for _, data in heard] == ["added", "claimed", "completed"]
    assert {(data["job_id"], data["kind"], data["tenant"]) for _, data in heard} == {
        (job.id, "echo", "default")
    }
    # Who comes back hears the rest; who knows all is told that there is no more.
    async with listening(api, f"/v1/jobs/{job.id}/events", **{"Last-Event-ID": heard[0][0]}) as stream:
        assert [await stream.event(), await stream.event()] == heard[1:]
    answer = await client.get(f"/v1/jobs/{job.id}/events", headers={"Last-Event-ID": heard[2][0]})
    assert (answer.status_code, answer.content) == (204, b"")


async def test_a_tenant_hears_of_its_own_jobs_and_resumes(app: App, api: FastAPI) -> None:
    async with listening(api, "/v1/events", **{"X-Tenant": "acme"}) as stream:
        await stream.raw()
        await asyncio.sleep(0.1)
        await app.submit("a", tenant="other")
        one = await app.submit("a", tenant="acme")
        position, data = await stream.event()
        assert (data["job_id"], data["event"], data["status"]) == (one.id, "added", "pending")
    two = await app.submit("a", tenant="acme")
    await app.jobs.cancel(two.id, tenant="acme", actor="ann")
    async with listening(api, "/v1/events", **{"X-Tenant": "acme", "Last-Event-ID": position}) as stream:
        heard: list[dict[str, Any]] = []
        while len(heard) < 2:  # what happened shortly before may come again, under its id
            _, again = await stream.event()
            heard += [again] * (again["id"] != data["id"])
        assert [(data["job_id"], data["event"]) for data in heard] == [
            (two.id, "added"),
            (two.id, "cancelled"),
        ]
        assert heard[1]["actor"] == "ann"


async def test_a_quiet_stream_is_kept_alive_and_ends_with_the_server(
    app: App, api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.02)
    job = await app.submit("a")
    async with listening(api, f"/v1/jobs/{job.id}/events") as stream:
        pieces = [await stream.raw() for _ in range(4)]
        assert pieces[2:] == [": \n\n"] * 2
        api.state.stopping.set()
        while await stream.raw():
            pass
        assert stream.ended


async def test_a_revoked_key_ends_its_streams(
    app: App, api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "HEARTBEAT", 0.02)
    key, token = await app.keys.create("ci", tenant="acme", rate=1)
    app.keys._used = (app.jobs.clock.now(), True)
    job = await app.submit("a", tenant="acme")
    async with listening(api, f"/v1/jobs/{job.id}/events", Authorization=f"Bearer {token}") as stream:
        await stream.event()
        assert await stream.raw() == ": \n\n"
        await app.keys.revoke(key.id)
        async with asyncio.timeout(10):
            while api.state.perdure.events._followers:
                await asyncio.sleep(0.01)


async def test_a_stuck_client_is_dropped_and_harms_nobody(
    app: App, api: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "STALL", 0.1)
    async with listening(api, "/v1/events") as stuck, listening(api, "/v1/events") as well:
        await stuck.raw()
        await well.raw()
        await asyncio.sleep(0.1)
        stuck.taken.clear()
        for number in range(20):
            job = await app.submit("a", {"number": number})
            assert (await well.event())[1]["job_id"] == job.id
        async with asyncio.timeout(10):
            while len(app.events._followers) > 1:
                await asyncio.sleep(0.01)
        job = await app.submit("a")
        assert (await well.event())[1]["job_id"] == job.id


async def test_what_does_not_fit_is_told_before_the_stream_begins(app: App, client: Client) -> None:
    for known in ("nonsense", "||", "a|b|c"):
        answer = await client.get("/v1/events", headers={"Last-Event-ID": known})
        assert "position" in assert_problem(answer, 400, "invalid-request")["detail"]
    assert_problem(await client.get(f"/v1/jobs/{UNKNOWN}/events"), 404, "not-found")
    assert_problem(await client.get("/v1/jobs/nonsense/events"), 400, "invalid-request")
    job = await app.submit("a", tenant="other")
    assert_problem(await client.get(f"/v1/jobs/{job.id}/events"), 404, "not-found")


async def test_a_gap_is_told_and_the_stream_goes_on(app: App, api: FastAPI) -> None:
    lost = f"99999999|{UNKNOWN}|{UNKNOWN}"
    async with listening(api, "/v1/events", **{"Last-Event-ID": lost}) as stream:
        assert await stream.raw() == "retry: 2000\n\n"
        assert (await stream.raw()).startswith("event: gap\ndata: ")
        await asyncio.sleep(0.1)
        job = await app.submit("a")
        assert (await stream.event())[1]["job_id"] == job.id
