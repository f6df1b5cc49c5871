"""Documents in, their status, and out again."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote
from uuid import UUID

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure.app import App
from tests.unit.rest.calls import UNKNOWN, assert_problem, finished, ingest

Client = httpx.AsyncClient


async def test_a_text_is_accepted_with_all_that_a_client_needs_to_follow_it(client: Client) -> None:
    answer = await client.post(
        "/v1/ingest",
        json={"text": "Leave is 30 days.", "document_id": "leave", "namespace": "hr", "version": 7},
    )
    assert answer.status_code == 202
    body = answer.json()
    assert UUID(body["ingestion_id"]).version == 7
    assert body == {
        "ingestion_id": body["ingestion_id"],
        "job_id": body["ingestion_id"],
        "status": "pending",
        "document_id": "leave",
        "namespace": "hr",
        "version": 7,
        "status_url": f"/v1/status/{body['ingestion_id']}",
    }
    assert answer.headers["location"] == body["status_url"]
    assert (await client.get(body["status_url"])).json()["status"] == "pending"


async def test_what_is_left_out_gets_its_default(client: Client) -> None:
    first = await ingest(client, "one")
    second = await ingest(client, "two")
    assert first["namespace"] == second["namespace"] == "default"
    assert first["document_id"] != second["document_id"]
    assert second["version"] > first["version"]


async def test_the_same_key_gives_the_same_ingestion(client: Client) -> None:
    key = {"Idempotency-Key": "order-1"}
    body = {"text": "Leave is 30 days."}
    first = await client.post("/v1/ingest", json=body, headers=key)
    again = await client.post("/v1/ingest", json=body, headers=key)
    assert again.status_code == first.status_code == 202
    assert again.json() == first.json()
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 1


async def test_the_same_key_with_another_body_is_refused(client: Client) -> None:
    key = {"Idempotency-Key": "order-1"}
    await client.post("/v1/ingest", json={"text": "one", "document_id": "d"}, headers=key)
    for body in ({"text": "two", "document_id": "d"}, {"text": "one", "document_id": "other"}):
        answer = await client.post("/v1/ingest", json=body, headers=key)
        assert_problem(answer, 422, "idempotency-conflict")
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 1


async def test_the_same_key_of_another_tenant_is_another_key(client: Client) -> None:
    ids = set()
    for tenant in ("ann", "bob"):
        headers = {"Idempotency-Key": "order-1", "X-Tenant": tenant}
        ids.add((await client.post("/v1/ingest", json={"text": tenant}, headers=headers)).json()["job_id"])
    assert len(ids) == 2


@pytest.mark.usefixtures("worker")
async def test_the_status_of_a_finished_document_tells_its_numbers(client: Client) -> None:
    accepted = await ingest(client, "Leave is 30 days.", document_id="leave", user_id="ann")
    status = await finished(client, accepted["job_id"])
    assert status["status"] == "completed"
    assert status["ingestion_id"] == status["job_id"] == accepted["job_id"]
    assert (status["kind"], status["document_id"], status["namespace"]) == ("vectorize", "leave", "default")
    assert status["version"] == accepted["version"]
    assert status["chunks_total"] == status["chunks_embedded"] == status["chunks_stored"] == 1
    assert status["failed_chunks"] == []
    assert status["error"] is None
    for moment in ("created_at", "updated_at", "started_at", "completed_at", "expires_at"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", status[moment])
    assert (await client.get(f"/v1/ingest/{accepted['job_id']}")).json() == status


@pytest.mark.usefixtures("worker")
async def test_a_document_says_how_it_is_cut(client: Client) -> None:
    accepted = await ingest(client, "abcdefgh", chunking="fixed:4")
    assert (await finished(client, accepted["job_id"]))["chunks_total"] == 2
    answer = await client.post(
        "/v1/ingest", data={"chunking": "fixed:2"}, files={"file": ("a.txt", b"abcdefgh")}
    )
    assert (await finished(client, answer.json()["job_id"]))["chunks_total"] == 4
    refused = await client.post("/v1/ingest", json={"text": "one", "chunking": "magic"})
    assert_problem(refused, 400, "invalid-request")


@pytest.mark.usefixtures("worker")
async def test_a_document_without_text_fails_with_the_reason_in_its_status(client: Client) -> None:
    accepted = await ingest(client, "<p></p>", media_type="text/html")
    status = await finished(client, accepted["job_id"])
    assert status["status"] == "failed"
    assert status["error"]["type"] == "DocumentEmpty"
    assert status["error"]["fatal"]
    assert "detail" not in status["error"]


@pytest.mark.parametrize("path", ["/v1/ingest/{}", "/v1/status/{}"])
async def test_a_bad_id_an_unknown_one_and_another_tenants(client: Client, path: str) -> None:
    accepted = await ingest(client, "mine")
    assert_problem(await client.get(path.format("nonsense")), 400, "invalid-request")
    assert_problem(await client.get(path.format(UNKNOWN)), 404, "not-found")
    theirs = await client.get(path.format(accepted["job_id"]), headers={"X-Tenant": "other"})
    assert_problem(theirs, 404, "not-found")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
@given(
    raw=st.binary(min_size=1, max_size=60)
    | st.text(max_size=60).map(lambda text: f"{UNKNOWN}{text}".encode())
)
async def test_whatever_stands_in_the_place_of_an_id_is_a_clean_answer(client: Client, raw: bytes) -> None:
    for path in ("/v1/status/", "/v1/ingest/", "/v1/jobs/"):
        answer = await client.get(path + quote(raw, safe="/"))
        assert answer.status_code in {400, 404, 405}
        assert answer.headers["content-type"] == "application/problem+json"


async def test_an_id_in_another_spelling_is_the_same(client: Client) -> None:
    accepted = await ingest(client, "text")
    for spelling in (accepted["job_id"].upper(), accepted["job_id"].replace("-", "")):
        assert (await client.get(f"/v1/status/{spelling}")).json()["job_id"] == accepted["job_id"]


async def test_a_job_of_another_kind_is_no_ingestion_but_has_a_status(client: Client, app: App) -> None:
    job = await app.submit("transcribe", {"url": "v"})
    assert_problem(await client.get(f"/v1/ingest/{job.id}"), 404, "not-found")
    status = (await client.get(f"/v1/status/{job.id}")).json()
    assert (status["kind"], status["status"], status["namespace"]) == ("transcribe", "pending", None)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "text"),
        ({"text": ""}, "text"),
        ({"text": " \n\t "}, "text"),
        ({"text": 5}, "text"),
        ({"text": "a", "namespace": "no spaces"}, "namespace"),
        ({"text": "a", "document_id": ""}, "document_id"),
        ({"text": "a", "document_id": "nul\x00"}, "document_id"),
        ({"text": "a", "version": -1}, "version"),
        ({"text": "a", "version": 2**63}, "version"),
        ({"text": "a", "version": 1.5}, "version"),
        ({"text": "a", "metadata": ["list"]}, "metadata"),
        ({"text": "a", "metadata": {"big": 2**70}}, "metadata"),
        ({"text": "a", "metadata": {"nul": "\x00"}}, "metadata"),
        ({"text": "a", "labels": {"n": 5}}, "labels.n"),
        ({"text": "a", "priority": 1001}, "priority"),
        ({"text": "a", "naemspace": "hr"}, "naemspace"),
        ([], "body"),
    ],
)
async def test_a_body_that_does_not_fit_is_refused_with_the_field(
    client: Client, body: object, field: str
) -> None:
    problem = assert_problem(await client.post("/v1/ingest", json=body), 400, "invalid-request")
    assert problem["errors"][0]["field"] == field
    assert problem["detail"].startswith(f"{field}: ")
    assert (await client.get("/v1/jobs/stats")).json()["total"] == 0


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"text": "\\ud800"}',
        b'{"text": NaN}',
        b"[" * 100_000,
        b'{"text": ' + b"9" * 5000,
    ],
    ids=["empty", "cut", "no UTF-8", "surrogate", "NaN", "deep", "long number"],
)
@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/jobs", "/v1/search"])
async def test_what_is_no_json_is_refused(client: Client, path: str, content: bytes) -> None:
    answer = await client.post(path, content=content, headers={"Content-Type": "application/json"})
    assert_problem(answer, 400, "invalid-request")


@pytest.mark.parametrize(
    "headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": "application/x-www-form-urlencoded"}]
)
async def test_another_content_type_is_refused(client: Client, headers: dict[str, str]) -> None:
    answer = await client.post("/v1/ingest", content=b"Leave is 30 days.", headers=headers)
    assert_problem(answer, 415, "unsupported-media-type")


async def test_a_path_on_the_server_cannot_be_named(client: Client) -> None:
    answer = await client.post("/v1/ingest", json={"text": "a", "path": "/etc/passwd"})
    assert_problem(answer, 400, "invalid-request")


@pytest.mark.usefixtures("worker")
async def test_documents_are_listed_page_by_page_and_deleted(client: Client) -> None:
    ids = ["a/b", "c d", "line\n feed\n", "ä?#%", "z"]
    for name in ids:
        accepted = await ingest(client, f"text {name}", document_id=name, namespace="hr", metadata={"n": 1})
        await finished(client, accepted["job_id"])
    seen: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        params = {"namespace": "hr", "limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/v1/documents", params=params)).json()
        seen += page["items"]
        cursor = page["next_cursor"]
    assert [document["document_id"] for document in seen] == sorted(ids)
    assert {(document["metadata"]["n"], document["chunk_count"]) for document in seen} == {(1, 1)}

    for name in ids:
        url = f"/v1/documents/{quote(name, safe='')}?namespace=hr"
        answer = await client.delete(url)
        assert (answer.status_code, answer.json()) == (200, {"chunks_deleted": 1}), name
        assert_problem(await client.delete(url), 404, "not-found")
    assert (await client.get("/v1/documents", params={"namespace": "hr"})).json()["items"] == []


async def test_another_tenants_document_is_not_deleted(client: Client, worker: None) -> None:
    accepted = await ingest(client, "mine", document_id="d")
    await finished(client, accepted["job_id"])
    other = {"X-Tenant": "other"}
    assert_problem(await client.delete("/v1/documents/d", headers=other), 404, "not-found")
    assert_problem(await client.delete(f"/v1/ingest/{accepted['job_id']}", headers=other), 404, "not-found")
    assert (await client.get("/v1/documents", headers=other)).json()["items"] == []
    assert len((await client.get("/v1/documents")).json()["items"]) == 1


async def test_deleting_an_ingestion_takes_its_vectors_away(client: Client, worker: None) -> None:
    accepted = await ingest(client, "mine", document_id="d")
    await finished(client, accepted["job_id"])
    answer = await client.delete(f"/v1/ingest/{accepted['job_id']}")
    assert answer.json() == {"chunks_deleted": 1}
    assert (await client.get("/v1/documents")).json()["items"] == []
    assert_problem(await client.delete("/v1/ingest/nonsense"), 400, "invalid-request")
    assert_problem(await client.delete(f"/v1/ingest/{UNKNOWN}"), 404, "not-found")


async def test_deleting_an_ingestion_under_way_cancels_it(client: Client) -> None:
    accepted = await ingest(client, "mine")
    assert (await client.delete(f"/v1/ingest/{accepted['job_id']}")).json() == {"chunks_deleted": 0}
    assert (await client.get(accepted["status_url"])).json()["status"] == "cancelled"
