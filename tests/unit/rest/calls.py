"""What the tests of the REST face say often."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

import httpx

UNKNOWN = "0198c0de-7a3e-7abc-8def-0123456789ab"
"""A UUID that no job has."""


def assert_problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    """Check that an answer is a problem of this kind, whole and consistent; give its document."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document: dict[str, Any] = answer.json()
    assert document["type"] == f"/problems/{slug}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert unquote(document["instance"]) == answer.request.url.path
    return document


async def ingest(client: httpx.AsyncClient, text: str, **fields: object) -> dict[str, Any]:
    """Ingest a text; give the answer's body."""
    answer = await client.post("/v1/ingest", json={"text": text, **fields})
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


async def finished(client: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    """Wait until a job is finished; give its status."""
    answer = await client.get(f"/v1/status/{job_id}", params={"wait": 30})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    assert body["completed_at"] is not None, body
    return body
