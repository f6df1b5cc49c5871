"""Long polls answer when the job is finished, and never hold up a server that stops or a client that left."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from tests.unit.rest.calls import UNKNOWN, assert_problem, ingest

Client = httpx.AsyncClient


async def test_it_answers_as_soon_as_the_job_is_finished(client: Client) -> None:
    job_id = (await ingest(client, "text"))["job_id"]
    poll = asyncio.create_task(client.get(f"/v1/status/{job_id}", params={"wait": 60}))
    await asyncio.sleep(0)
    await client.post(f"/v1/jobs/{job_id}/cancel")
    assert (await poll).json()["status"] == "cancelled"


async def test_it_answers_with_the_job_as_it_is_when_the_time_is_up(client: Client) -> None:
    job_id = (await ingest(client, "text"))["job_id"]
    for seconds in ("0", "0.01"):
        answer = await client.get(f"/v1/status/{job_id}", params={"wait": seconds})
        assert (answer.status_code, answer.json()["status"]) == (200, "pending")


async def test_it_answers_when_the_server_stops(app: App, api: FastAPI, client: Client) -> None:
    job = await app.ingest_text("text")
    poll = asyncio.create_task(client.get(f"/v1/status/{job.id}", params={"wait": 60}))
    await asyncio.sleep(0)
    api.state.stopping.set()
    assert (await poll).json()["status"] == "pending"


async def test_it_ends_when_the_client_has_gone(app: App, api: FastAPI) -> None:
    job = await app.ingest_text("text")
    messages = asyncio.Queue[dict[str, object]]()
    messages.put_nowait({"type": "http.request", "body": b"", "more_body": False})
    messages.put_nowait({"type": "http.disconnect"})

    async def send(_message: object) -> None:
        pass

    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "path": f"/v1/status/{job.id}",
        "query_string": b"wait=60",
        "headers": [],
    }
    await asyncio.wait_for(api(scope, messages.get, send), 30)


async def test_a_bad_or_unknown_id_is_told_at_once(client: Client) -> None:
    wait = {"wait": 60}
    assert_problem(await client.get("/v1/status/nonsense", params=wait), 400, "invalid-request")
    assert_problem(await client.get(f"/v1/status/{UNKNOWN}", params=wait), 404, "not-found")


@pytest.mark.parametrize("wait", ["-1", "61", "nan", "inf", "long"])
async def test_a_time_that_does_not_fit_is_refused(client: Client, wait: str) -> None:
    answer = await client.get(f"/v1/status/{UNKNOWN}", params={"wait": wait})
    assert "wait" in assert_problem(answer, 400, "invalid-request")["detail"]


async def test_a_job_has_a_tag_that_changes_with_it(client: Client) -> None:
    path = f"/v1/jobs/{(await ingest(client, 'text'))['job_id']}"
    tag = (await client.get(path)).headers["etag"]
    for known in (tag, f'"x", W/{tag}', "*"):
        same = await client.get(path, headers={"If-None-Match": known})
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    await client.post(f"{path}/cancel")
    other = await client.get(path, headers={"If-None-Match": tag})
    assert (other.status_code, other.json()["status"]) == (200, "cancelled")
    assert other.headers["etag"] != tag


async def test_a_job_is_waited_for_until_it_changes_or_is_finished(client: Client) -> None:
    path = f"/v1/jobs/{(await ingest(client, 'text'))['job_id']}"
    tag = (await client.get(path)).headers["etag"]
    known = {"If-None-Match": tag}
    assert (await client.get(path, params={"wait": 0.01}, headers=known)).status_code == 304
    changed = asyncio.create_task(client.get(path, params={"wait": 30}, headers=known))
    done = asyncio.create_task(client.get(path, params={"wait": 30}))
    await asyncio.sleep(0.01)
    await client.patch(path, json={"priority": 5})
    assert (await changed).json()["priority"] == 5
    assert not done.done()
    await client.post(f"{path}/cancel")
    assert (await done).json()["status"] == "cancelled"
    # What is finished, or is not what the client knows, is not waited for.
    for headers in ({}, known):
        assert (await client.get(path, params={"wait": 60}, headers=headers)).status_code == 200
