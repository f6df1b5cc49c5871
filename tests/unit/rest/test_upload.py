"""Files that come as a form: stored as they arrive, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from itertools import permutations

import httpx
import pytest
from fastapi import FastAPI

from perdure.app import App
from tests.unit.rest.calls import assert_problem, finished

Client = httpx.AsyncClient
FORM = {"Content-Type": "multipart/form-data; boundary=X"}


def part(name: str, content: bytes, filename: str | None = None, media_type: str | None = None) -> bytes:
    """One part of a form with the boundary X."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    disposition += "" if filename is None else f'; filename="{filename}"'
    kind = "" if media_type is None else f"Content-Type: {media_type}\r\n"
    return f"--X\r\n{disposition}\r\n{kind}\r\n".encode() + content + b"\r\n"


END = b"--X--\r\n"


async def assert_nothing_stored(client: Client) -> None:
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 0


async def content_of(app: App, job_id: str) -> bytes:
    """What waits in the blob of a job."""
    job = await app.jobs.get(job_id, tenant="default")
    blob = job.payload["blob"]
    assert isinstance(blob, str)
    return b"".join([piece async for piece in app.blobs.read("default", blob)])


async def test_a_file_is_stored_byte_by_byte_with_its_fields(client: Client, app: App) -> None:
    content = bytes(range(256)) * 200
    answer = await client.post(
        "/v1/ingest",
        data={
            "namespace": "hr",
            "document_id": "leave",
            "version": "7",
            "metadata": '{"lang": "en"}',
            "labels": '{"team": "hr"}',
            "user_id": "",
            "encoding": "latin-1",
            "priority": "5",
        },
        files={"file": ("Leave – 2024.md", content, "text/markdown")},
    )
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert (body["namespace"], body["document_id"], body["version"]) == ("hr", "leave", 7)
    job = (await client.get(f"/v1/jobs/{body['job_id']}")).json()
    assert (job["labels"], job["user_id"], job["priority"]) == ({"team": "hr"}, None, 5)
    payload = job["payload"]
    assert payload["sha256"] == hashlib.sha256(content).hexdigest()
    assert payload["name"] == "Leave – 2024.md"
    assert payload["media_type"] == "text/markdown"
    assert payload["encoding"] == "latin-1"
    assert payload["metadata"] == {"lang": "en"}
    assert await content_of(app, body["job_id"]) == content


@pytest.mark.usefixtures("worker")
async def test_an_uploaded_file_becomes_searchable(client: Client) -> None:
    answer = await client.post("/v1/ingest", files={"file": ("leave.md", b"# Leave\n\nThirty days.", None)})
    status = await finished(client, answer.json()["job_id"])
    assert status["status"] == "completed"
    hits = (await client.post("/v1/search", json={"query": "thirty days"})).json()["hits"]
    assert [hit["document_id"] for hit in hits] == [status["document_id"]]


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
async def test_it_does_not_matter_how_the_bytes_are_cut(client: Client, app: App, size: int) -> None:
    content = b"--\r\n--Y\r\n\r\n--x--\r\n-" * 50  # nearly boundaries
    body = part("namespace", b"hr") + part("file", content, "a.txt") + END

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), size):
            yield body[start : start + size]

    answer = await client.post("/v1/ingest", content=pieces(), headers=FORM)
    assert answer.status_code == 202, answer.text
    assert answer.json()["namespace"] == "hr"
    assert await content_of(app, answer.json()["job_id"]) == content


async def test_the_same_key_gives_the_same_ingestion(client: Client) -> None:
    async def send(content: bytes) -> httpx.Response:
        return await client.post(
            "/v1/ingest", files={"file": ("a.md", content)}, headers={"Idempotency-Key": "k"}
        )

    first, again, other = await send(b"one"), await send(b"one"), await send(b"two")
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert_problem(other, 422, "idempotency-conflict")


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "cut short"),
        (b"nonsense", "multipart"),
        (END, "no file"),
        (part("namespace", b"hr") + END, "no file"),
        (part("file", b"text") + END, "no file"),
        (part("file", b"text", "") + END, "was one chosen"),
        (part("document", b"text", "a.txt") + END, "expected `file`"),
        (part("file", b"text", "a.txt"), "cut short"),
        (part("file", b"text", "a.txt")[:-9], "cut short"),
        (part("file", b"text", "a.txt") + part("namespace", b"a b") + END, "namespace"),
        (part("file", b"text", "a.txt") + part("metadata", b"x" * 99) + END, "metadata: "),
        (part("file", b"text", "a.txt") + part("file", b"more", "b.txt") + END, "more than one file"),
        (part("namespace", b"a") + part("namespace", b"b") + part("file", b"t", "a.txt") + END, "twice"),
        (part("namespace", b"\xff") + part("file", b"t", "a.txt") + END, "UTF-8"),
        (part("nul", b"t") + part("file", b"t", "a.txt") + END, "nul"),
        (part("namespace", b"a b") + part("file", b"t", "a.txt") + END, "namespace"),
        (part("version", b"x") + part("file", b"t", "a.txt") + END, "version"),
        (part("metadata", b"{") + part("file", b"t", "a.txt") + END, "metadata: "),
        (part("metadata", b"[]") + part("file", b"t", "a.txt") + END, "metadata: "),
        (part("document_id", b"a\x00") + part("file", b"t", "a.txt") + END, "NUL"),
        (b"".join(part(f"f{number}", b"") for number in range(101)) + END, "more than 100 fields"),
        (b"--X\r\nX-Header: 1\r\n\r\ntext\r\n" + END, "no name"),
    ],
)
async def test_a_form_that_does_not_fit_stores_nothing(client: Client, body: bytes, told: str) -> None:
    problem = assert_problem(
        await client.post("/v1/ingest", content=body, headers=FORM), 400, "invalid-request"
    )
    assert told in problem["detail"]
    await assert_nothing_stored(client)


async def test_fields_may_come_in_any_order(client: Client, app: App) -> None:
    fields = part("namespace", b"hr"), part("file", b"text", "a.md"), part("metadata", b'{"lang": "en"}')
    for order in permutations((*fields, part("media_type", b"text/plain"))):
        answer = await client.post("/v1/ingest", content=b"".join(order) + END, headers=FORM)
        assert answer.status_code == 202, answer.text
        payload = (await app.jobs.get(answer.json()["job_id"], tenant="default")).payload
        assert (payload["namespace"], payload["metadata"]) == ("hr", {"lang": "en"})
        assert (payload["name"], payload["media_type"]) == ("a.md", "text/plain")
        assert await content_of(app, answer.json()["job_id"]) == b"text"


async def test_an_empty_file_is_refused(client: Client) -> None:
    answer = await client.post("/v1/ingest", files={"file": ("empty.txt", b"")})
    problem = assert_problem(answer, 400, "unreadable-document")
    assert "empty.txt" in problem["detail"]
    await assert_nothing_stored(client)


async def test_a_form_without_boundary_is_refused(client: Client) -> None:
    answer = await client.post("/v1/ingest", content=END, headers={"Content-Type": "multipart/form-data"})
    assert "boundary" in assert_problem(answer, 400, "invalid-request")["detail"]


async def test_too_large_a_file_is_refused_before_it_is_read(client: Client) -> None:
    answer = await client.post("/v1/ingest", files={"file": ("a.txt", b"x" * 100_001)})
    assert_problem(answer, 413, "too-large")
    await assert_nothing_stored(client)


async def test_too_large_a_file_of_unknown_length_is_refused_on_the_way(client: Client) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        yield part("file", b"", "a.txt")[:-2]
        while sent < 10_000_000:
            sent += 10_000
            yield b"x" * 10_000

    answer = await client.post("/v1/ingest", content=endless(), headers=FORM)
    assert_problem(answer, 413, "too-large")
    assert sent <= 110_000
    await assert_nothing_stored(client)


async def test_too_large_fields_are_refused(client: Client) -> None:
    body = part("metadata", json.dumps({"a": "x" * 99_000}).encode())
    answer = await client.post("/v1/ingest", content=body * 2, headers=FORM)
    assert_problem(answer, 413, "too-large")


async def test_a_client_that_goes_away_in_the_middle_leaves_nothing(app: App, api: FastAPI) -> None:
    messages: list[dict[str, object]] = [
        {"type": "http.request", "body": part("file", b"half", "a.txt")[:-2], "more_body": True},
        {"type": "http.disconnect"},
    ]
    answered = []

    async def receive() -> dict[str, object]:
        return messages.pop(0)

    async def send(message: object) -> None:
        answered.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/v1/ingest",
        "raw_path": b"/v1/ingest",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", FORM["Content-Type"].encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }
    await api(scope, receive, send)
    assert answered == []
    assert (await app.jobs.stats("default")).total == 0
