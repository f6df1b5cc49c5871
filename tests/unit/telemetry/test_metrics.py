"""The numbers that Prometheus gets, of a real app in memory."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

import perdure
from perdure.app import App
from perdure.core.context import Context
from perdure.domain.errors import Fatal, InvalidInput, RetryAfter, StoreUnavailable
from perdure.domain.job import NewJob
from perdure.domain.record import Json
from perdure.telemetry import metrics as module
from perdure.telemetry.serving import metrics_at

DEPLOY = Path(__file__).parents[3] / "deploy"
Numbers = dict[tuple[str, tuple[str, ...]], float]


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with perdure.open("memory:", embedder="hashing", cache_megabytes=1, poll_seconds=0.02) as app:
        yield app


async def numbers(app: App) -> Numbers:
    """(name, values of the labels by name) → number."""
    families = text_string_to_metric_families((await app.metrics.scrape()).decode())
    return {
        (sample.name, tuple(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


async def test_what_happens_to_jobs_is_counted_by_kind(app: App) -> None:
    tries = 0

    @app.handler("odd")
    async def odd(ctx: Context, how: str) -> None:
        nonlocal tries
        tries += 1
        if how == "throttled" and tries == 1:
            raise RetryAfter(0.01, "slow down")
        if how == "broken":
            raise Fatal("broken")

    for how in ("throttled", "fine", "broken"):
        job = await app.submit("odd", {"how": how})
        await app.wait(job.id, timeout=30)
    await app.wait((await app.ingest_text("Leave is 30 days a year.")).id, timeout=30)
    told = await numbers(app)
    assert told["perdure_job_events_total", ("completed", "odd")] == 2
    assert told["perdure_job_events_total", ("failed", "odd")] == 1
    assert told["perdure_job_events_total", ("released", "odd")] == 1
    assert told["perdure_provider_throttled_total", ("odd",)] == 1
    assert told["perdure_job_run_seconds_count", ("odd",)] == 4
    assert told["perdure_job_wait_seconds_count", ("odd",)] == 3
    assert told["perdure_jobs", ("odd", "completed")] == 2
    assert told["perdure_jobs", ("odd", "waiting")] == 0
    assert told["perdure_embed_tokens_total", (next(iter(app.tokens))[1],)] >= 0
    assert told["perdure_store_up", ()] == 1
    assert told["perdure_cache_answers_total", ("miss",)] > 0


async def test_the_age_is_that_of_the_job_which_has_been_due_longest(app: App) -> None:
    assert (await numbers(app))["perdure_oldest_due_seconds", ()] == 0
    for tenant, hours in (("acme", 1), ("bolt", 3), ("cord", -1)):
        due = datetime.now(UTC) - timedelta(hours=hours)
        await app.jobs.add(NewJob(kind="nobody", tenant=tenant, run_at=due))
    assert (await numbers(app))["perdure_oldest_due_seconds", ()] == pytest.approx(3 * 3600, abs=60)


async def test_a_store_that_is_away_is_told(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object) -> None:
        raise StoreUnavailable("gone")

    monkeypatch.setattr(app.jobs.store, "stats", away)
    told = await numbers(app)
    assert told["perdure_store_up", ()] == 0
    assert told["perdure_lease_losses_total", ()] == 0


async def test_whoever_submits_cannot_fill_prometheus_with_kinds(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_KINDS", 3)
    for number in range(9):
        job = await app.submit(f"kind-{number}")
        await app.jobs.cancel(job.id, tenant="default")
    told = await numbers(app)
    assert told["perdure_jobs", ("other", "cancelled")] == 6
    assert told["perdure_job_events_total", ("cancelled", "other")] == 6


async def test_lags_and_losses_are_told(app: App) -> None:
    status: dict[str, Json] = {"name": "folder", "upserts": 3, "changed_at": 100.0, "read_at": 107.5}
    await app.jobs.store.values.write("feeds", "folder", status, expect=0)
    app.jobs.tally["lost"] += 2
    told = await numbers(app)
    assert told["perdure_feed_lag_seconds", ("folder",)] == 7.5
    assert told["perdure_feed_events_total", ("upserts", "folder")] == 3
    assert told["perdure_lease_losses_total", ()] == 2


async def test_every_number_that_the_shipped_files_name_is_told(app: App) -> None:
    await app.jobs.store.values.write("feeds", "folder", {"name": "folder"}, expect=0)

    @app.handler("throttled")
    async def throttled(ctx: Context) -> None:
        raise RetryAfter(60, "slow down")

    await app.submit("throttled")
    await app.wait((await app.ingest_text("words")).id, timeout=30)
    async with asyncio.timeout(30):
        while ("perdure_provider_throttled_total", ("throttled",)) not in await numbers(app):
            await asyncio.sleep(0.02)
    told = {name for name, _ in await numbers(app)}
    shipped = (DEPLOY / "prometheus/alerts.yml").read_text() + (DEPLOY / "grafana/perdure.json").read_text()
    named = set(re.findall(r"\bperdure_[a-z_]+", shipped))
    assert named
    assert named - told == set()


def test_the_grafana_dashboard_places_its_panels_without_overlap() -> None:
    board: dict[str, Any] = json.loads((DEPLOY / "grafana/perdure.json").read_text())
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert {x for x, _ in cells} == set(range(24))


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_a_process_that_serves_nothing_else_tells_them_too(app: App) -> None:
    async with metrics_at("0", app.metrics) as port:
        answer = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\nperdure_store_up 1.0\n" in answer
        assert (await ask(port, b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999999", "256.0.0.1:0"])
async def test_an_address_that_is_none_is_refused(app: App, address: str) -> None:
    with pytest.raises(InvalidInput, match=r"expected e\.g\. 9100"):
        async with metrics_at(address, app.metrics):
            pass
