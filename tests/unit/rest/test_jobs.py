"""Jobs of any kind: added, listed, looked at, called off, sent round again, answered."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from perdure.app import App
from perdure.core.context import Context
from perdure.domain.errors import Fatal
from tests.unit.rest.calls import UNKNOWN, assert_problem, finished

Client = httpx.AsyncClient


@pytest.fixture
def kinds(app: App) -> None:
    """Handlers of a few kinds."""

    @app.handler("echo")
    async def echo(ctx: Context, **payload: Any) -> dict[str, Any]:
        await ctx.progress(0.5, "half way", words=3)
        return payload

    @app.handler("fail")
    async def fail(ctx: Context) -> None:
        raise Fatal("it can't be done")

    @app.handler("ask")
    async def ask(ctx: Context) -> Any:
        return await ctx.ask("Publish?", choices=["yes", "no"], deadline="2d", default="no")


async def add(client: Client, kind: str = "later", **fields: object) -> dict[str, Any]:
    answer = await client.post("/v1/jobs", json={"kind": kind, **fields})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def until(client: Client, job_id: str, status: str) -> dict[str, Any]:
    """Poll a job until it has this status."""
    while True:
        job: dict[str, Any] = (await client.get(f"/v1/jobs/{job_id}")).json()
        if job["status"] == status:
            return job
        await asyncio.sleep(0.01)


async def test_a_job_is_added_with_every_field(client: Client) -> None:
    given = {
        "kind": "transcribe",
        "payload": {"url": "v.mp4", "deep": [1, None, {"a": 0.5}]},
        "priority": 7,
        "max_attempts": 9,
        "max_rescues": 1,
        "user_id": "ann",
        "document_id": "d",
        "created_by": "import",
        "labels": {"team": "hr"},
    }
    answer = await client.post(
        "/v1/jobs",
        json=given | {"run_at": "2031-05-01T12:00:00+02:00", "ttl_seconds": None},
        headers={"Idempotency-Key": "k"},
    )
    assert answer.status_code == 202
    job = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert given.items() <= job.items()
    assert job["status"] == "pending"
    assert job["run_at"] == "2031-05-01T10:00:00Z"
    assert job["idempotency_key"] == "k"
    assert (job["expires_at"], job["result"], job["questions"], job["error"]) == (None, None, [], None)
    assert (await client.get(f"/v1/jobs/{job['id']}")).json() == job


async def test_the_same_key_gives_the_same_job(client: Client) -> None:
    key = {"Idempotency-Key": "k"}
    first, again = [
        await client.post("/v1/jobs", json={"kind": "a", "payload": {"n": 1}}, headers=key) for _ in range(2)
    ]
    assert first.json() == again.json()
    other = await client.post("/v1/jobs", json={"kind": "a", "payload": {"n": 2}}, headers=key)
    assert_problem(other, 422, "idempotency-conflict")


async def test_a_document_cannot_be_smuggled_in_as_a_job(client: Client) -> None:
    """A payload with a path would let a client read the server's files."""
    payload = {"path": "/etc/passwd", "document_id": "d", "version": 1, "name": "passwd"}
    answer = await client.post("/v1/jobs", json={"kind": "vectorize", "payload": payload})
    problem = assert_problem(answer, 400, "invalid-request")
    assert "/v1/ingest" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "kind"),
        ({"kind": "a", "payload": []}, "payload"),
        ({"kind": "a", "payload": {"n": 2**64}}, "payload"),
        ({"kind": "a", "run_at": "tomorrow"}, "run_at"),
        ({"kind": "a", "run_at": "2031-05-01T12:00:00"}, "run_at"),
        ({"kind": "a", "priority": "high"}, "priority"),
        ({"kind": "a", "max_attempts": 0}, "max_attempts"),
        ({"kind": "a", "ttl_seconds": 0}, "ttl_seconds"),
        ({"kind": "a", "ttl_seconds": 1e300}, "ttl_seconds"),
        ({"kind": "a", "unique_for_seconds": -1}, "unique_for_seconds"),
        ({"kind": "a", "labels": {"": "x"}}, "labels"),
        ({"kind": "a", "tenant": "other"}, "tenant"),
    ],
)
async def test_a_job_that_does_not_fit_is_refused(client: Client, body: object, field: str) -> None:
    problem = assert_problem(await client.post("/v1/jobs", json=body), 400, "invalid-request")
    assert problem["errors"][0]["field"].partition(".")[0] == field


async def test_the_domain_refuses_what_the_wire_lets_pass(client: Client) -> None:
    problem = assert_problem(
        await client.post("/v1/jobs", json={"kind": "no spaces"}), 400, "invalid-request"
    )
    assert "kind" in problem["detail"]


async def test_a_list_is_paged_newest_first_and_filtered(client: Client) -> None:
    for number in range(5):
        await add(client, "a", user_id=f"u{number % 2}", document_id=f"d{number}")
    await add(client, "b")
    pages, cursor = [], None
    while True:
        params = {"limit": 4} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/jobs", params=params)).json()
        pages.append(page["items"])
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [len(page) for page in pages] == [4, 2]
    found = [job for page in pages for job in page]
    assert [job["document_id"] for job in found] == [None, "d4", "d3", "d2", "d1", "d0"]
    assert "payload" not in found[0]
    oldest = (await client.get("/v1/jobs", params={"sort": "created_at", "limit": 4})).json()
    assert [job["id"] for job in oldest["items"]] == [job["id"] for job in found[:1:-1]]
    params = {"sort": "created_at", "limit": 4, "cursor": oldest["next_cursor"]}
    rest = (await client.get("/v1/jobs", params=params)).json()
    assert [job["id"] for job in rest["items"]] == [job["id"] for job in found[1::-1]]
    assert (await client.get("/v1/jobs", params=params | {"sort": "-created_at"})).status_code == 400, (
        "of another list"
    )

    async def count(**params: object) -> int:
        answer = await client.get("/v1/jobs", params=params)  # type: ignore[arg-type]  # lists are fine too
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert await count(kind="a") == 5
    assert await count(kind=["a", "b"]) == 6
    assert await count(user_id="u1") == 2
    assert await count(document_id="d3") == 1
    assert await count(status="pending") == 6
    assert await count(status=["failed", "cancelled"]) == 0
    moment = found[2]["created_at"]
    assert await count(created_from=moment) == 3
    assert await count(created_before=moment) == 3


async def test_processing_is_another_word_for_running(client: Client, app: App) -> None:
    await add(client, "a")
    job = await add(client, "b")
    await app.jobs.store.claim("w", ["b"], 1, timedelta(seconds=30))
    for word in ("processing", "running"):
        items = (await client.get("/v1/jobs", params={"status": word})).json()["items"]
        assert [(item["id"], item["status"], item["worker"]) for item in items] == [
            (job["id"], "running", "w")
        ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("status", "done"),
        ("limit", "0"),
        ("limit", "1001"),
        ("limit", "many"),
        ("cursor", "nonsense"),
        ("created_from", "yesterday"),
        ("created_before", "2031-05-01T12:00:00"),
        ("staus", "failed"),
    ],
)
async def test_a_filter_that_does_not_fit_is_refused(client: Client, name: str, value: str) -> None:
    answer = await client.get("/v1/jobs", params={name: value})
    problem = assert_problem(answer, 400, "invalid-request")
    assert name in problem["detail"]


async def test_a_cursor_is_good_for_its_own_list_alone(client: Client) -> None:
    for _ in range(3):
        await add(client, "a")
        await client.post("/v1/jobs", json={"kind": "a"}, headers={"X-Tenant": "other"})
    cursor = (await client.get("/v1/jobs", params={"limit": 1})).json()["next_cursor"]
    assert (await client.get("/v1/jobs", params={"limit": 2, "cursor": cursor})).status_code == 200
    for params, headers in (
        ({"kind": "a"}, {}),
        ({}, {"X-Tenant": "other"}),
        ({"cursor": cursor[:-4] + "AAA="}, {}),
        ({"cursor": "é"}, {}),
        ({"cursor": (await add(client, "a"))["id"]}, {}),
    ):
        answer = await client.get("/v1/jobs", params={"cursor": cursor} | params, headers=headers)
        assert "cursor" in assert_problem(answer, 400, "invalid-request")["detail"]


async def test_a_tenant_sees_only_its_own(client: Client) -> None:
    mine = await add(client, "a")
    other = {"X-Tenant": "other"}
    assert (await client.get("/v1/jobs", headers=other)).json()["items"] == []
    assert (await client.get("/v1/jobs/stats", headers=other)).json()["total"] == 0
    path = f"/v1/jobs/{mine['id']}"
    calls = [
        ("GET", path, None),
        ("DELETE", path, None),
        ("PATCH", path, {"priority": 1}),
        ("POST", f"{path}/cancel", None),
        ("POST", f"{path}/retry", None),
        ("POST", f"{path}/progress", {"fraction": 0.5}),
        ("POST", f"{path}/respond", {"answer": "yes"}),
        ("GET", f"{path}/history", None),
    ]
    for method, url, body in calls:
        assert_problem(await client.request(method, url, json=body, headers=other), 404, "not-found")
        unknown = url.replace(mine["id"], UNKNOWN)
        assert_problem(await client.request(method, unknown, json=body), 404, "not-found")
        bad = url.replace(mine["id"], "nonsense")
        assert_problem(await client.request(method, bad, json=body), 400, "invalid-request")
    assert (await client.get(path)).json() == mine


async def test_stats_count_by_state_and_kind(client: Client) -> None:
    await add(client, "a")
    await add(client, "b")
    await client.post(f"/v1/jobs/{(await add(client, 'b'))['id']}/cancel")
    stats = (await client.get("/v1/jobs/stats")).json()
    assert (stats["total"], stats["unfinished"]) == (3, 2)
    assert stats["by_status"] == {
        "pending": 2,
        "running": 0,
        "waiting": 0,
        "completed": 0,
        "partial": 0,
        "failed": 0,
        "cancelled": 1,
    }
    assert stats["by_kind"] == {"a": {"pending": 1}, "b": {"pending": 1, "cancelled": 1}}
    await add(client, "b", user_id="ann")
    ann = (await client.get("/v1/jobs/stats", params={"user_id": "ann"})).json()
    assert (ann["total"], ann["by_kind"]) == (1, {"b": {"pending": 1}})


async def test_a_job_is_cancelled_once_and_sent_round_again(client: Client) -> None:
    path = f"/v1/jobs/{(await add(client))['id']}"
    first = await client.post(f"{path}/cancel", json={"reason": "wrong file"})
    again = await client.post(f"{path}/cancel")
    assert first.status_code == 200
    assert first.json()["status"] == "cancelled"
    assert again.json() == first.json()
    assert_problem(await client.patch(path, json={"priority": 1}), 409, "illegal-transition")
    entries = (await client.get(f"{path}/history")).json()["items"]
    assert [entry["event"] for entry in entries] == ["added", "cancelled"]
    assert entries[1]["detail"] == {"reason": "wrong file"}
    assert (await client.post(f"{path}/retry")).json()["status"] == "pending"


async def test_a_job_is_edited(client: Client) -> None:
    job = await add(client, labels={"a": "1"})
    path = f"/v1/jobs/{job['id']}"
    assert (await client.patch(path, json={"priority": 9})).json()["priority"] == 9
    edited = (await client.patch(path, json={"labels": {"b": "2"}})).json()
    assert (edited["priority"], edited["labels"]) == (9, {"b": "2"})
    later = {"run_at": "2031-05-04T12:00:00+05:30", "max_attempts": 7, "max_rescues": 0, "ttl_seconds": None}
    edited = (await client.patch(path, json=later, headers={"X-Actor": "ann"})).json()
    assert (edited["run_at"], edited["max_attempts"], edited["max_rescues"]) == ("2031-05-04T06:30:00Z", 7, 0)
    entry = (await client.get(f"{path}/history")).json()["items"][-1]
    was = {"run_at": job["run_at"], "max_attempts": 3, "max_rescues": 3, "ttl": "P1D"}
    assert (entry["event"], entry["actor"], entry["detail"]) == ("edited", "ann", {"was": was})
    assert (await client.post(f"{path}/cancel")).json()["expires_at"] is None, "kept for ever"
    for body in (
        {"priority": 1001},
        {"labels": {"a": "\x00"}},
        {"kind": "other"},
        {"run_at": "2031-05-04T12:00:00"},
        {"ttl_seconds": 0},
        {"max_attempts": 0},
    ):
        assert_problem(await client.patch(path, json=body), 400, "invalid-request")


@pytest.mark.usefixtures("worker")
async def test_progress_is_told_from_outside(app: App, client: Client) -> None:
    done = asyncio.Event()

    @app.handler("elsewhere")
    async def elsewhere(ctx: Context) -> None:
        await done.wait()

    path = f"/v1/jobs/{(await add(client, 'elsewhere'))['id']}"
    await until(client, path.rsplit("/", 1)[1], "running")
    told = {"fraction": 0.4, "message": "page 40", "counts": {"pages": 40}}
    assert (await client.post(f"{path}/progress", json={**told, "epoch": 1})).json()["progress"] == told
    assert (await client.get(path)).json()["progress"] == told
    assert_problem(await client.post(f"{path}/progress", json={"epoch": 2}), 409, "illegal-transition")
    assert_problem(await client.post(f"{path}/progress", json={"fraction": 2}), 400, "invalid-request")
    done.set()
    await finished(client, path.rsplit("/", 1)[1])
    assert_problem(await client.post(f"{path}/progress", json=told), 409, "illegal-transition")


async def test_a_job_is_deleted(client: Client) -> None:
    path = f"/v1/jobs/{(await add(client))['id']}"
    answer = await client.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert_problem(await client.get(path), 404, "not-found")
    assert_problem(await client.delete(path), 404, "not-found")


@pytest.mark.usefixtures("kinds", "worker")
async def test_a_job_runs_and_tells_its_result(client: Client) -> None:
    job = await add(client, "echo", payload={"words": ["a"]})
    await finished(client, job["id"])
    job = (await client.get(f"/v1/jobs/{job['id']}")).json()
    assert (job["status"], job["result"], job["attempt"]) == ("completed", {"words": ["a"]}, 1)
    assert job["progress"]["counts"] == {"words": 3}
    assert datetime.fromisoformat(job["completed_at"]) >= datetime.fromisoformat(job["started_at"])
    assert_problem(await client.post(f"/v1/jobs/{job['id']}/cancel"), 409, "illegal-transition")
    assert_problem(await client.post(f"/v1/jobs/{job['id']}/retry"), 409, "illegal-transition")


@pytest.mark.usefixtures("kinds", "worker")
async def test_a_failed_job_tells_why_without_its_traceback(client: Client) -> None:
    job = await add(client, "fail")
    status = await finished(client, job["id"])
    assert status["error"] == {"type": "Fatal", "message": "it can't be done", "fatal": True}


async def test_a_job_that_asked_nothing_takes_no_answer(client: Client) -> None:
    path = f"/v1/jobs/{(await add(client))['id']}"
    assert_problem(await client.post(f"{path}/respond", json={"answer": "yes"}), 409, "illegal-transition")


@pytest.mark.usefixtures("kinds", "worker")
async def test_a_question_is_answered_once(client: Client) -> None:
    path = f"/v1/jobs/{(await add(client, 'ask'))['id']}"
    job = await until(client, path.rsplit("/", 1)[1], "waiting")
    question = job["questions"][0]
    assert (question["prompt"], question["choices"], question["default"]) == ("Publish?", ["yes", "no"], "no")
    assert question["answered_at"] is None
    for body in ({"answer": "perhaps"}, {}, {"answer": "\x00"}, {"answer": "yes", "key": ""}):
        assert_problem(await client.post(f"{path}/respond", json=body), 400, "invalid-request")
    assert (await client.post(f"{path}/respond", json={"answer": "yes"})).status_code == 200
    assert (await client.post(f"{path}/respond", json={"answer": "yes"})).status_code == 200
    other = await client.post(f"{path}/respond", json={"answer": "no"})
    assert_problem(other, 409, "illegal-transition")
    await finished(client, path.rsplit("/", 1)[1])
    job = (await client.get(path)).json()
    assert (job["result"], job["questions"][0]["answer"]) == ("yes", "yes")


async def test_a_body_of_another_content_type_is_refused(client: Client) -> None:
    path = f"/v1/jobs/{(await add(client))['id']}"
    for method, url in [
        ("POST", "/v1/jobs"),
        ("PATCH", path),
        ("POST", f"{path}/cancel"),
        ("POST", "/v1/search"),
    ]:
        answer = await client.request(method, url, content="a=b", headers={"Content-Type": "text/plain"})
        assert_problem(answer, 415, "unsupported-media-type")
