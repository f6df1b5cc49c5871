"""A document that was deleted stays away, whatever dies or is away meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest

import perdure
from perdure.app import App
from perdure.deletion import KIND
from perdure.domain.errors import Deferred, NotFound, StoreUnavailable
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import JobState
from perdure.embedders.hashing import HashingEmbedder
from perdure.ports.embedder import Purpose
from perdure.rest import create_app

SETTINGS: dict[str, Any] = {"embedder": "python:tests.unit.app.test_deletion:Slow", "poll_seconds": 0.02}


class Slow(HashingEmbedder):
    """Waits for its gate with documents."""

    gate = asyncio.Event()
    asked = asyncio.Event()

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
        if purpose == "document":
            self.asked.set()
            await self.gate.wait()
        return await super().embed(texts, purpose)


@pytest.fixture
async def app() -> AsyncIterator[App]:
    Slow.gate, Slow.asked = asyncio.Event(), asyncio.Event()
    Slow.gate.set()
    async with perdure.open("memory:", **SETTINGS) as opened:
        yield opened


@pytest.fixture
def away(app: App, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The vector store deletes nothing until this is undone."""

    async def refuse(*_: object, **__: object) -> int:
        raise StoreUnavailable("the vectors are away")

    monkeypatch.setattr(app.vectors, "delete", refuse)
    return monkeypatch


async def ingested(app: App, text: str = "thirty days of leave", **options: Any) -> Job:
    job = await app.ingest_text(text, document_id="d", **options)
    return await app.wait(job.id, timeout=60)


async def texts(app: App) -> list[str]:
    return [hit.chunk_text for hit in await app.search("leave", mode="vector")]


async def outbox(app: App, state: JobState = JobState.PENDING) -> list[Job]:
    return await app.jobs.store.find(JobFilter(tenant="default", kinds=(KIND,), states=(state,)), 10)


async def carried_out(app: App, job_id: str) -> None:
    """Let the outbox's job be due now, and wait for it."""
    await app.jobs.edit(job_id, tenant="default", run_at=app.jobs.clock.now())
    assert (await app.wait(job_id, timeout=60)).state is JobState.COMPLETED


async def test_a_deletion_that_went_well_leaves_no_record(app: App) -> None:
    await ingested(app)
    assert await app.delete_document("d") == 1
    with pytest.raises(NotFound):
        await app.delete_document("d")
    assert await outbox(app) == []
    assert (await app.jobs.stats("default")).total == 1


async def test_while_the_vectors_are_away_it_is_noted_and_done_later(
    app: App, away: pytest.MonkeyPatch
) -> None:
    await ingested(app)
    with pytest.raises(Deferred, match="the vectors are away") as noted:
        await app.delete_document("d")
    assert await texts(app) == ["thirty days of leave"]
    assert [job.id for job in await outbox(app)] == [noted.value.job_id]
    away.undo()
    await carried_out(app, noted.value.job_id)
    assert await texts(app) == []


async def test_what_came_after_the_deletion_stays(app: App, away: pytest.MonkeyPatch) -> None:
    await ingested(app)
    with pytest.raises(Deferred) as noted:
        await app.delete_document("d")
    await ingested(app, "new rules of leave")
    away.undo()
    await carried_out(app, noted.value.job_id)
    assert await texts(app) == ["new rules of leave"]


async def test_a_process_that_dies_in_between_has_said_it(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    await ingested(app)

    async def die(*_: object, **__: object) -> int:
        raise SystemError("killed here")

    monkeypatch.setattr(app.vectors, "delete", die)
    with pytest.raises(SystemError):
        await app.delete_document("d")
    monkeypatch.undo()
    [job] = await outbox(app)
    await carried_out(app, job.id)
    assert await texts(app) == []


@pytest.mark.parametrize("how", ["document", "ingestion"])
async def test_what_is_deleted_while_it_is_embedded_does_not_come_back(app: App, how: str) -> None:
    Slow.gate.clear()
    job = await app.ingest_text("thirty days of leave", document_id="d")
    await Slow.asked.wait()
    assert await (app.delete_document("d") if how == "document" else app.delete_ingestion(job.id)) == 0
    Slow.gate.set()
    assert (await app.wait(job.id, timeout=60)).state is JobState.CANCELLED
    again = await app.ingest_text("back again: leave", document_id="other")
    await app.wait(again.id, timeout=60)
    assert await texts(app) == ["back again: leave"]


async def test_the_deletion_of_an_older_version_leaves_the_newer(app: App) -> None:
    await ingested(app, "old leave", version=3)
    await ingested(app, "new leave", version=5)
    assert await app.delete_document("d", version=4) == 0
    assert await texts(app) == ["new leave"]
    assert await app.delete_document("d", version=9) == 1
    late = await ingested(app, "late leave", version=8)
    assert isinstance(late.result, dict)
    assert late.result["superseded"] is True
    assert await texts(app) == []
    await ingested(app, "leave anew", version=10)
    assert await texts(app) == ["leave anew"]


async def test_by_rest_it_is_accepted_while_the_vectors_are_away(app: App, away: pytest.MonkeyPatch) -> None:
    job = await ingested(app)
    transport = httpx.ASGITransport(app=create_app(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path in ("/v1/documents/d", f"/v1/ingest/{job.id}"):
            answer = await client.delete(path)
            assert answer.status_code == 202
            assert (await client.get(answer.headers["location"])).json()["kind"] == KIND
        away.undo()
        answer = await client.delete("/v1/documents/d", params={"version": 0})
        assert (answer.status_code, answer.json()) == (200, {"chunks_deleted": 0})
        answer = await client.delete("/v1/documents/d")
        assert (answer.status_code, answer.json()) == (200, {"chunks_deleted": 1})
