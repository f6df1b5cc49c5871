"""Every error is a problem document, and says nothing of the inside."""

from __future__ import annotations

import inspect
import logging

import httpx
import pytest

from perdure.app import App
from perdure.domain import errors
from perdure.problems import KINDS, kind_of
from tests.unit.rest.calls import UNKNOWN, assert_problem

Client = httpx.AsyncClient
SECRET = "postgresql://admin:hunter2@db.internal"


async def test_a_path_that_is_not_there(client: Client) -> None:
    for path in ("/v1/nothing", "/v2", "/v1/jobs/", "/docs", "/v1/ingest/a/b"):
        assert_problem(await client.get(path), 404, "not-found")


async def test_a_method_that_is_not_taken(client: Client) -> None:
    for method, path, taken in (
        ("PUT", "/v1/jobs", "GET, POST"),
        ("POST", "/healthz", "GET"),
        ("PUT", f"/v1/jobs/{UNKNOWN}", "DELETE, GET, PATCH"),
    ):
        answer = await client.request(method, path)
        assert_problem(answer, 405, "method-not-allowed")
        assert answer.headers["allow"] == taken


async def test_every_kind_has_a_page(client: Client) -> None:
    for kind in KINDS.values():
        page = await client.get(kind.type)
        assert page.status_code == 200
        assert page.headers["content-type"] == "text/plain; charset=utf-8"
        assert kind.title in page.text
    assert_problem(await client.get("/problems/unheard-of"), 404, "not-found")


def test_every_error_of_perdure_is_some_kind() -> None:
    members = [item for _, item in inspect.getmembers(errors, inspect.isclass)]
    classes = [item for item in members if issubclass(item, errors.PerdureError)]
    assert len(classes) > 20
    for cls in classes:
        error = cls(1.0) if issubclass(cls, errors.RetryAfter) else cls("text")
        assert kind_of(error) in KINDS.values()


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (errors.InvalidInput("x is 5"), 400, "invalid-request"),
        (errors.UnknownKind("no such kind"), 400, "invalid-request"),
        (errors.DocumentEmpty("no text"), 400, "unreadable-document"),
        (errors.NotFound("gone"), 404, "not-found"),
        (errors.IllegalTransition("no"), 409, "illegal-transition"),
        (errors.StaleWrite("late"), 409, "superseded"),
        (errors.ModelMismatch("other model"), 409, "model-mismatch"),
        (errors.UnsupportedFormat(".xyz"), 415, "unsupported-media-type"),
        (errors.IdempotencyConflict("k"), 422, "idempotency-conflict"),
    ],
)
async def test_what_the_caller_can_mend_is_told_in_full(
    client: Client, app: App, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, slug: str
) -> None:
    _fail_with(app, monkeypatch, error)
    problem = assert_problem(await client.get("/v1/jobs/stats"), status, slug)
    assert problem["detail"] == str(error)


@pytest.mark.parametrize(
    ("error", "status", "slug", "retry"),
    [
        (errors.StoreUnavailable(SECRET), 503, "store-unavailable", "2"),
        (errors.EmbedderError(SECRET), 503, "embedder-unavailable", "2"),
        (errors.RetryAfter(7.2, SECRET), 503, "embedder-unavailable", "8"),
        (errors.EmbedderRefused(SECRET), 502, "embedder-refused", None),
        (errors.StoreCorrupt(SECRET), 500, "store-error", None),
        (errors.SchemaMismatch(SECRET), 500, "store-error", None),
        (errors.LeaseLost(SECRET), 500, "internal-error", None),
        (RuntimeError(SECRET), 500, "internal-error", None),
        (KeyError(SECRET), 500, "internal-error", None),
    ],
)
async def test_what_only_the_operator_can_mend_goes_to_the_log(
    client: Client,
    app: App,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    error: Exception,
    status: int,
    slug: str,
    retry: str | None,
) -> None:
    _fail_with(app, monkeypatch, error)
    with caplog.at_level(logging.ERROR, "perdure.rest"):
        answer = await client.get("/v1/jobs/stats")
    assert_problem(answer, status, slug)
    assert "hunter2" not in answer.text
    assert answer.headers.get("retry-after") == retry
    assert "hunter2" in caplog.text
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_a_problem_quotes_what_came_without_breaking(client: Client) -> None:
    body = '{"kind": "\\ud800", "labels": {"a\\u0000": 1}, "' + "x" * 5000 + '": 1}'
    answer = await client.post("/v1/jobs", content=body, headers={"Content-Type": "application/json"})
    problem = assert_problem(answer, 400, "invalid-request")
    assert "more)" in problem["detail"]
    assert all(len(fault["message"]) < 500 for fault in problem["errors"])


async def test_a_bad_tenant_is_refused_everywhere(client: Client) -> None:
    for path in ("/v1/jobs", "/v1/jobs/stats", "/v1/documents", f"/v1/status/{UNKNOWN}"):
        for tenant in ("", "no spaces", "ä", "x" * 200):
            answer = await client.get(path, headers=[(b"X-Tenant", tenant.encode("latin-1"))])
            assert "tenant" in assert_problem(answer, 400, "invalid-request")["detail"]


async def test_a_bad_idempotency_key_is_refused(client: Client) -> None:
    for key in ("", "x" * 2000):
        answer = await client.post("/v1/jobs", json={"kind": "a"}, headers={"Idempotency-Key": key})
        assert "Idempotency-Key" in assert_problem(answer, 400, "invalid-request")["detail"]


def _fail_with(app: App, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    async def stats(_tenant: str | None, **_: str | None) -> None:
        raise error

    monkeypatch.setattr(app.jobs, "stats", stats)
