"""Times as programs meet them: ISO 8601 in UTC on every wire, in whatever zone they were given."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from perdure.app import open as open_app
from perdure.core.context import Context
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.rest import create_app
from perdure.settings import Settings
from perdure.stores.cosmos import documents as cosmos
from perdure.stores.mongodb import documents as mongodb
from perdure.vectorization import VectorizationJobRepository, VectorizationJobStatus, VectorizationResult

from .conftest import Perdure

UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z")
EAST = timezone(timedelta(hours=5, minutes=30))
LATER = datetime(2031, 5, 4, 12, tzinfo=EAST)
TIMES = {
    *("created_at", "updated_at", "started_at", "completed_at", "expires_at", "run_at"),
    *("at", "asked_at", "answered_at", "deadline", "published_at", "was.run_at", "result.started_at"),
}


def times(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every time in a value, and the name of its field; with that of the object around it, too."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from times(item, f"{name.rpartition('.')[2]}.{key}")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from times(item, name)
    elif isinstance(value, datetime) or (isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\d", value)):
        yield name, value


async def filled(settings: Settings) -> AsyncIterator[Any]:
    """Fill a store by each way in, and give all that the REST API and the stores' documents tell."""
    async with open_app(settings=settings) as app:

        @app.handler("ask", max_attempts=2)
        async def ask(ctx: Context) -> Any:
            await ctx.progress(0.5, "half")
            return await ctx.ask("Go on?", deadline="2d", default="no")

        repository = VectorizationJobRepository(app.jobs.store)
        record = VectorizationResult(job_id=str(uuid4()), document_id="d", started_at=LATER)
        await repository.create(record)
        await repository.update(
            VectorizationResult(
                job_id=record.job_id,
                document_id="d",
                status=VectorizationJobStatus.COMPLETED,
                started_at=LATER,
                completed_at=LATER,
            )
        )
        later = await app.submit("later", run_at=LATER)
        await app.jobs.edit(later.id, tenant="default", run_at=LATER + timedelta(hours=1))
        asking = [await app.submit("ask") for _ in range(2)]
        done = await app.ingest_text("thirty days of leave", document_id="d", namespace="hr")
        await app.wait(done.id, timeout=60)
        while (await app.jobs.stats("default")).by_state[JobState.WAITING] < 2:
            await asyncio.sleep(0.02)
        await app.jobs.respond(asking[0].id, "yes", tenant="default")
        await app.wait(asking[0].id, timeout=60)
        transport = httpx.ASGITransport(app=create_app(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            given = {"kind": "later", "run_at": LATER.isoformat()}
            yield (await client.post("/v1/jobs", json=given)).json()
            yield (await client.patch(f"/v1/jobs/{later.id}", json={"run_at": LATER.isoformat()})).json()
            for path in ("jobs", "jobs/stats", "documents?namespace=hr"):
                yield (await client.get(f"/v1/{path}")).json()
            jobs: list[Job] = await app.jobs.store.find(JobFilter(tenant=None), 100)
            for job in jobs:
                for path in (f"jobs/{job.id}", f"jobs/{job.id}/history", f"status/{job.id}"):
                    yield (await client.get(f"/v1/{path}")).json()
                yield cosmos.document(job)
                yield mongodb.document(job)


def printed(perdure: Perdure, job_ids: list[str]) -> Iterator[Any]:
    """All that the command line tells as JSON."""
    commands = [["jobs", "list"], ["jobs", "stats"], ["documents", "list", "--namespace", "hr"]]
    commands += [[*words, job_id] for job_id in job_ids for words in (["jobs", "show"], ["job-status"])]
    commands.append(["jobs", "edit", job_ids[0], "--run-at", LATER.isoformat()])
    for command in commands:
        text = perdure("--json", *command).out
        yield json.loads(text) if text.startswith("{\n") else [json.loads(line) for line in text.splitlines()]


def test_every_wire_tells_times_in_utc(
    tmp_path: Path, perdure: Perdure, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = f"sqlite:///{tmp_path}/perdure.db"
    monkeypatch.setenv("PERDURE_STORE", store)
    settings = Settings(store=store, embedder="hashing", poll_seconds=0.05)

    async def all_told() -> list[Any]:
        return [told async for told in filled(settings)]

    told = asyncio.run(all_told())
    ids = [told[0]["id"], *(line["id"] for line in told[2]["items"])]
    told += printed(perdure, ids)
    seen: set[str] = set()
    for name, value in times(told):
        seen |= {name, name.rpartition(".")[2]}
        if isinstance(value, datetime):
            assert value.utcoffset() == timedelta(0), name
        else:
            assert UTC_TIME.fullmatch(value), (name, value)
    assert seen >= TIMES
