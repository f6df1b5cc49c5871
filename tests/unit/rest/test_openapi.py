"""The description is valid, whole, and true."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fastapi.openapi.models import OpenAPI

Client = httpx.AsyncClient
Json = dict[str, Any]


@pytest.fixture
async def description(client: Client) -> Json:
    answer = await client.get("/openapi.json")
    assert answer.status_code == 200
    document: Json = answer.json()
    return document


def operations(description: Json) -> Iterator[tuple[str, Json]]:
    for path, item in description["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def references(node: object) -> Iterator[str]:
    match node:
        case {"$ref": str(target)}:
            yield target
        case dict():
            for value in node.values():
                yield from references(value)
        case list():
            for value in node:
                yield from references(value)


def test_it_is_valid_openapi(description: Json) -> None:
    assert description["openapi"].startswith("3.1.")
    OpenAPI.model_validate(description)
    schemas = description["components"]["schemas"]
    for target in references(description):
        prefix, name = target.rsplit("/", 1)
        assert prefix == "#/components/schemas"
        assert name in schemas, target


def test_what_a_call_makes_leads_to_the_calls_about_it(description: Json) -> None:
    described = dict(operations(description))
    named = {operation["operationId"]: call for call, operation in described.items()}
    led = {
        maker: {
            named[link["operationId"]] for link in described[maker]["responses"][status]["links"].values()
        }
        for maker, status in (
            ("POST /v1/ingest", "202"),
            ("POST /v1/jobs", "202"),
            ("POST /v1/webhooks", "201"),
        )
    }
    of_jobs = {call for call in described if "{job_id}" in call}
    assert led["POST /v1/jobs"] == of_jobs
    assert led["POST /v1/ingest"] == of_jobs | {"DELETE /v1/documents/{document_id}"}
    assert led["POST /v1/webhooks"] == {call for call in described if "{webhook_id}" in call}


def test_every_call_is_there(description: Json) -> None:
    assert {call for call, _ in operations(description)} == {
        "POST /v1/ingest",
        "GET /v1/ingest/{job_id}",
        "GET /v1/ingest/{job_id}/chunks",
        "DELETE /v1/ingest/{job_id}",
        "GET /v1/status/{job_id}",
        "GET /v1/documents",
        "DELETE /v1/documents/{document_id}",
        "POST /v1/search",
        "GET /v1/jobs",
        "POST /v1/jobs",
        "GET /v1/jobs/stats",
        "GET /v1/events",
        "GET /v1/jobs/{job_id}/events",
        "POST /v1/jobs/batch",
        "GET /api/v1/embedding-jobs",
        "GET /api/v1/embedding-jobs/stats",
        "GET /v1/jobs/{job_id}",
        "PATCH /v1/jobs/{job_id}",
        "DELETE /v1/jobs/{job_id}",
        "POST /v1/jobs/{job_id}/cancel",
        "POST /v1/jobs/{job_id}/retry",
        "POST /v1/jobs/{job_id}/progress",
        "POST /v1/jobs/{job_id}/respond",
        "GET /v1/jobs/{job_id}/history",
        "POST /v1/webhooks",
        "GET /v1/webhooks",
        "DELETE /v1/webhooks/{webhook_id}",
        "GET /v1/webhooks/{webhook_id}/deliveries",
        "POST /v1/webhooks/deliveries/{delivery_id}/replay",
        "GET /v1/feeds",
        "GET /healthz",
        "GET /readyz",
    }


def test_every_call_has_a_tag_a_summary_and_its_errors_as_problems(description: Json) -> None:
    tags = {tag["name"] for tag in description["tags"]}
    seen = set()
    for call, operation in operations(description):
        assert set(operation["tags"]) <= tags, call
        assert operation["description"], call
        assert operation["operationId"] not in seen
        seen.add(operation["operationId"])
        for status, answer in operation["responses"].items():
            if status[0] in "23":
                continue
            assert list(answer["content"]) == ["application/problem+json"], (call, status)
        assert {"400", "503", "default"} <= operation["responses"].keys(), call
        if "{" in call:
            assert "404" in operation["responses"], call
    assert "HTTPValidationError" not in description["components"]["schemas"]


def test_the_tenant_is_described_wherever_data_is(description: Json) -> None:
    for call, operation in operations(description):
        names = {parameter["name"] for parameter in operation.get("parameters", [])}
        assert ("x-tenant" in names) == ("/v1/" in call), call


@pytest.mark.parametrize("path", ["/v1/ingest", "/v1/search", "/v1/jobs"])
async def test_the_examples_of_a_body_are_taken(client: Client, description: Json, path: str) -> None:
    schema = description["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    if "$ref" in schema:
        schema = description["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    body = {
        name: field["examples"][0] for name, field in schema["properties"].items() if field.get("examples")
    }
    assert body
    answer = await client.post(path, json=body)
    assert answer.status_code in {200, 202}, answer.text
