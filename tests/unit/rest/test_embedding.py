"""The calls of the embedding service that Perdure replaces, in its own words."""

from __future__ import annotations

import httpx
import pytest

from perdure.app import App
from tests.unit.rest.calls import assert_problem, finished, ingest

Client = httpx.AsyncClient
PATH = "/api/v1/embedding-jobs"


@pytest.mark.usefixtures("worker")
async def test_jobs_have_the_shape_of_that_service(app: App, client: Client) -> None:
    job = await ingest(client, "Leave is 30 days.", document_id="d", namespace="hr")
    await finished(client, job["job_id"])
    answer = await client.get(PATH, params={"status": "completed"})
    assert answer.status_code == 200, answer.text
    (shown,) = answer.json()["jobs"]
    took = shown["metadata"].pop("processingTimeMs")
    assert isinstance(took, int)
    times = {shown.pop(name) for name in ("createdAt", "updatedAt", "completedAt")}
    assert all(time.endswith("Z") for time in times)
    assert shown == {
        "id": job["job_id"],
        "tenantId": "default",
        "shardId": "d",
        "shardTypeId": "hr",
        "status": "completed",
        "retryCount": 0,
        "error": None,
        "metadata": {"embeddingModel": "hashing-1:256", "vectorCount": 1},
    }
    assert (await client.get(f"{PATH}/stats")).json() == {
        "stats": {"pending": 0, "processing": 0, "completed": 1, "failed": 0}
    }


async def test_the_tenant_is_a_parameter_there(app: App, client: Client) -> None:
    await app.ingest_text("one", tenant="acme")
    for path in (PATH, f"{PATH}/stats"):
        assert '"pending"' in (await client.get(path, params={"tenantId": "acme"})).text
        answer = await client.get(path, params={"tenantId": "acme"}, headers={"X-Tenant": "other"})
        assert_problem(answer, 403, "forbidden")
    assert (await client.get(PATH, params={"status": "pending"})).json()["jobs"] == []
    _, token = await app.keys.create("ci", tenant="acme")
    app.keys._used = (app.jobs.clock.now(), True)
    key = {"Authorization": f"Bearer {token}"}
    assert len((await client.get(PATH, headers=key)).json()["jobs"]) == 1
    for path in (PATH, f"{PATH}/stats"):
        assert_problem(await client.get(path, params={"tenantId": "other"}, headers=key), 403, "forbidden")
    # Elsewhere it is no parameter, and chooses nothing.
    answer = await client.get("/v1/jobs/stats", params={"tenantId": "other"}, headers=key)
    assert_problem(answer, 400, "invalid-request")


async def test_pages_follow_one_another(app: App, client: Client) -> None:
    for number in range(5):
        await app.ingest_text(f"number {number}")
    await app.submit("other")  # no document
    seen, cursor = [], None
    while True:
        page = (await client.get(PATH, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        seen += [job["id"] for job in page["jobs"]]
        if (cursor := page["nextCursor"]) is None:
            break
    assert len(set(seen)) == len(seen) == 5
    assert_problem(await client.get(PATH, params={"status": "running"}), 400, "invalid-request")
