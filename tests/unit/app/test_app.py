"""The application as a program uses it, in memory, with the embedder that needs no model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import perdure
from perdure.app import App, FileItem
from perdure.core.cache import CachedJobStore
from perdure.core.context import Context
from perdure.domain.errors import (
    DocumentUnreadable,
    IdempotencyConflict,
    InvalidInput,
    NotFound,
    TextRejected,
)
from perdure.domain.job import Job
from perdure.domain.state import JobState
from perdure.embedders.hashing import HashingEmbedder
from perdure.orders import INLINE_BYTES
from perdure.ports.embedder import Purpose

QUICK: dict[str, Any] = {"embedder": "hashing", "poll_seconds": 0.02, "lease_seconds": 6.0}


@pytest.fixture
async def app() -> AsyncIterator[App]:
    async with perdure.open("memory:", **QUICK) as opened:
        yield opened


@pytest.fixture
async def client() -> AsyncIterator[App]:
    """An app in which nothing runs."""
    async with perdure.open("memory:", worker=False, **QUICK) as opened:
        yield opened


async def done(app: App, job: Job) -> dict[str, Any]:
    job = await app.wait(job.id, tenant=job.tenant, timeout=60)
    assert job.state is JobState.COMPLETED, job.failure
    assert isinstance(job.result, dict)
    return job.result


async def failure(app: App, job: Job) -> str:
    job = await app.wait(job.id, timeout=60)
    assert (job.state, job.attempt) == (JobState.FAILED, 1)
    assert job.failure is not None
    return job.failure.message


async def texts(app: App, query: str = "leave", **options: Any) -> list[str]:
    return [hit.chunk_text for hit in await app.search(query, **options)]


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_file_becomes_searchable(app: App, tmp_path: Path) -> None:
    path = tmp_path / "handbook.md"
    path.write_text(
        "# Leave\n\nEverybody has thirty days of leave.\n\n# Pay\n\nOn the last day of the month.\n"
    )
    job = await app.ingest(path, namespace="hr", metadata={"lang": "en"})
    assert job.state is JobState.PENDING
    result = await done(app, job)
    assert result["chunks_stored"] == result["chunks_total"] == 2
    (hit, *_) = await app.search("days of leave", namespace="hr", limit=5)
    assert "thirty days" in hit.chunk_text
    assert hit.document_id == path.as_posix()
    assert hit.metadata == {"lang": "en"}
    assert await app.search("days of leave", namespace="other") == []
    assert await app.search("days of leave", namespace="hr", where={"lang": "de"}) == []


async def test_a_file_in_the_working_folder_is_named_by_its_relative_path(
    client: App, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("text")
    assert (await client.ingest("docs/a.md")).document_id == "docs/a.md"
    assert (await client.ingest(tmp_path / "docs" / "a.md")).document_id == "docs/a.md"


async def test_a_text_is_durable_in_its_job(app: App) -> None:
    job = await app.ingest_text("Thirty days of leave.", document_id="handbook")
    assert (await done(app, job))["document_id"] == "handbook"
    assert await texts(app) == ["Thirty days of leave."]


async def test_large_text_and_uploads_wait_in_a_blob_until_they_are_done(app: App) -> None:
    large = "Thirty days of leave. " * (INLINE_BYTES // 20)
    job = await app.ingest_text(large, document_id="large")
    assert "text" not in job.payload
    blob = str(job.payload["blob"])
    assert (await done(app, job))["chunks_stored"] > 10
    async with asyncio.timeout(60):
        while await app.blobs.delete("default", blob):
            await asyncio.sleep(0.01)
    upload = await app.ingest_stream(pieces(b"<p>Sick ", b"leave</p>"), name="sick.html")
    assert (await done(app, upload))["characters"] == len("Sick leave")


async def test_the_blob_of_a_failed_job_stays_for_a_retry(app: App) -> None:
    job = await app.ingest_stream(pieces(b"\xff\xfe\xfa broken \x00"), name="broken.txt", encoding="utf-8")
    assert "encoding" in await failure(app, job)
    assert await app.blobs.delete("default", str(job.payload["blob"]))


async def test_the_same_request_under_one_key_is_one_job(client: App) -> None:
    async def upload(content: bytes) -> Job:
        return await client.ingest_stream(pieces(content), name="a.txt", document_id="a", idempotency_key="k")

    first = await upload(b"one")
    assert await upload(b"one") == first
    with pytest.raises(IdempotencyConflict):
        await upload(b"two")
    kept = [piece async for piece in client.blobs.read("default", str(first.payload["blob"]))]
    assert kept == [b"one"]
    assert (await client.jobs.stats("default")).total == 1


async def test_a_new_version_replaces_the_old_whole(app: App) -> None:
    await done(app, await app.ingest_text("Thirty days of leave.", document_id="d"))
    await done(app, await app.ingest_text("Forty days of leave.", document_id="d"))
    assert await texts(app) == ["Forty days of leave."]


async def test_unchanged_content_is_not_embedded_again(app: App) -> None:
    await done(app, await app.ingest_text("Thirty days of leave.", document_id="d"))
    result = await done(app, await app.ingest_text("Thirty days of leave.", document_id="d"))
    assert (result["unchanged"], result["chunks_embedded"]) == (True, 0)


async def test_a_retry_of_a_partial_document_embeds_only_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Picky(HashingEmbedder):
        """Refuses a word, until it does not; counts what it is asked."""

        refused = True
        asked = 0

        async def embed(self, texts: Sequence[str], purpose: Purpose) -> Any:
            if Picky.refused and any("poison" in text for text in texts):
                raise TextRejected("not this one")
            Picky.asked += len(texts)
            return await super().embed(texts, purpose)

    monkeypatch.setattr("perdure.embedders.hashing.HashingEmbedder", Picky)
    parts = [f"# Part {number}\n\n{word} leave" for number, word in enumerate(["paid", "poison", "sick"])]
    async with perdure.open("memory:", **QUICK) as app:
        job = await app.ingest_text("\n\n".join(parts), document_id="d", media_type="text/markdown")
        job = await app.wait(job.id, timeout=60)
        assert (job.state, Picky.asked) == (JobState.PARTIAL, 2)
        assert job.failure is not None
        assert "1 of 3 chunks failed for good: not this one" in job.failure.message
        assert len(await texts(app, "leave")) == 2
        Picky.refused, Picky.asked = False, 0
        await app.jobs.requeue(job.id, tenant="default")
        result = await done(app, job)
        assert (result["chunks_embedded"], result["chunks_reused"], result["chunks_stored"]) == (1, 2, 3)
        assert Picky.asked == 1
        assert len(await texts(app, "leave")) == 3


async def test_an_older_version_that_comes_late_changes_nothing(app: App) -> None:
    await done(app, await app.ingest_text("new", document_id="d", version=2))
    late = await done(app, await app.ingest_text("old", document_id="d", version=1))
    assert late["superseded"] is True
    assert await texts(app, "new") == ["new"]


async def test_deleting_a_document_takes_what_is_there_and_what_is_under_way(client: App) -> None:
    waiting = await client.ingest_text("Thirty days of leave.", document_id="d")
    other = await client.ingest_text("Thirty days of leave.", document_id="d", namespace="other")
    assert await client.delete_document("d") == 0
    assert (await client.jobs.get(waiting.id, tenant="default")).state is JobState.CANCELLED
    assert (await client.jobs.get(other.id, tenant="default")).state is JobState.PENDING
    with pytest.raises(NotFound):
        await client.delete_document("d")


async def test_a_deleted_document_is_gone_and_may_come_back_anew(app: App) -> None:
    job = await app.ingest_text("Thirty days of leave.", document_id="d")
    await done(app, job)
    assert await app.delete_document("d") == 1
    assert await texts(app) == []
    await done(app, await app.ingest_text("Back again: leave.", document_id="d"))
    assert await texts(app) == ["Back again: leave."]


async def test_deleting_an_ingestion_leaves_a_newer_version(app: App) -> None:
    first = await app.ingest_text("Thirty days of leave.", document_id="d")
    await done(app, first)
    second = await app.ingest_text("Forty days of leave.", document_id="d")
    await done(app, second)
    assert await app.delete_ingestion(first.id) == 0
    assert await texts(app) == ["Forty days of leave."]
    assert await app.delete_ingestion(second.id) == 1
    assert await texts(app) == []
    with pytest.raises(NotFound):
        await app.delete_ingestion(first.id, tenant="another")


async def test_tenants_do_not_see_each_other(app: App) -> None:
    mine = await app.ingest_text("My leave.", document_id="d", tenant="me")
    await done(app, mine)
    assert await texts(app, tenant="you") == []
    with pytest.raises(NotFound):
        await app.delete_document("d", tenant="you")
    assert await texts(app, tenant="me") == ["My leave."]


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("empty.txt", b"", "no text"),
        ("blank.md", b" \n\t\n", "no text"),
        ("latin.txt", "Schöne Grüße".encode("latin-1"), "--encoding"),
        ("binary.txt", bytes(range(32)) * 8, "binary"),
        ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(64), "format"),
    ],
)
async def test_a_document_without_text_says_why_and_what_to_do(
    name: str, content: bytes, remedy: str, app: App, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    good = tmp_path / "good.txt"
    good.write_text("leave")
    jobs = await app.ingest_many([FileItem(path=path), FileItem(path=good)])
    assert remedy in await failure(app, jobs[0])
    await done(app, jobs[1])
    assert await texts(app) == ["leave"]


async def test_a_file_that_is_not_there_is_refused_at_once(client: App, tmp_path: Path) -> None:
    with pytest.raises(DocumentUnreadable, match="no such file"):
        await client.ingest(tmp_path / "nowhere.md")
    with pytest.raises(DocumentUnreadable, match="no regular file"):
        await client.ingest(tmp_path)


async def test_a_file_that_vanishes_before_its_turn_fails_its_job(app: App, tmp_path: Path) -> None:
    go = asyncio.Event()

    @app.handler("block")
    async def block(ctx: object) -> None:
        await go.wait()

    await app.jobs.close()  # keep the worker from looking at once
    for _ in range(app.settings.concurrency):
        await app.submit("block")
    path = tmp_path / "short-lived.md"
    path.write_text("text")
    async with asyncio.timeout(60):
        while (await app.jobs.stats("default")).by_state[JobState.PENDING]:
            await asyncio.sleep(0.01)
    job = await app.ingest(path)
    path.unlink()
    go.set()
    assert "short-lived.md" in await failure(app, job)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": "no spaces"},
        {"document_id": ""},
        {"metadata": {"when": object()}},
        {"version": "seven"},
        {"colour": "red"},
        {"tenant": "../up"},
    ],
)
async def test_what_does_not_fit_is_refused_at_the_door(options: dict[str, Any], client: App) -> None:
    with pytest.raises(InvalidInput):
        await client.ingest_text("text", **options)
    assert (await client.jobs.stats(None)).total == 0


async def test_vectorize_jobs_come_only_through_ingest(client: App) -> None:
    with pytest.raises(InvalidInput, match="ingest"):
        await client.submit("vectorize", {"path": "/etc/passwd"})


async def test_the_way_from_the_design(app: App) -> None:
    @app.handler("transcribe", max_attempts=5)
    async def transcribe(ctx: Any, video_url: str) -> dict[str, bool]:
        await ctx.progress(0.4, "downloading")
        answer = await ctx.ask("Publish?", choices=["yes", "no"], deadline="2d", default="no")
        return {"published": answer == "yes"}

    job = await app.submit("transcribe", {"video_url": "https://example.org/v"}, user_id="ada")
    assert job.max_attempts == 5
    async with asyncio.timeout(60):
        async for seen in app.jobs.watch(job.id, tenant="default"):
            if seen.state is JobState.WAITING:
                break
    await app.jobs.respond(job.id, "yes", tenant="default")
    assert (await app.wait(job.id, timeout=60)).result == {"published": True}


async def test_memory_says_that_nothing_survives(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        async with perdure.open("memory:", worker=False):
            pass
    assert "nothing survives" in caplog.text


async def test_health_names_the_part_that_is_down(client: App) -> None:
    assert await client.health() == {"store": "ok", "vectors": "ok"}
    await client.jobs.store.close()
    health = await client.health()
    assert health["store"] != "ok"
    assert health["vectors"] == "ok"


async def test_an_app_may_be_opened_again() -> None:
    app = perdure.open("memory:", **QUICK)
    for number in range(2):
        async with app:
            await done(app, await app.ingest_text(f"Leave, time {number}.", document_id="d"))
            assert await texts(app) == [f"Leave, time {number}."]


async def test_text_that_is_none_is_refused(client: App) -> None:
    with pytest.raises(InvalidInput, match="lone surrogate"):
        await client.ingest_text("x \ud800")
    with pytest.raises(InvalidInput, match="idempotency_key"):
        await client.ingest_stream(pieces(b"x"), name="a.txt", id="0198c0de-7a3e-7abc-8def-0123456789ab")


async def test_the_cache_is_in_front_of_the_store_where_it_is_given_memory(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'perdure.db'}"
    async with perdure.open(url, cache_megabytes=1, **QUICK) as app:
        assert isinstance(app.jobs.store, CachedJobStore)

        @app.handler("double")
        async def double(ctx: Context, n: int) -> int:
            return 2 * n

        job = await app.submit("double", {"n": 21})
        assert (await app.wait(job.id, timeout=60)).result == 42
        async with asyncio.timeout(60):
            while not app.jobs.store.cache_stats.hits:  # commits of the worker drop what is kept
                await app.jobs.get(job.id, tenant="default")
    async with perdure.open(url, **QUICK) as app:
        assert not isinstance(app.jobs.store, CachedJobStore)
