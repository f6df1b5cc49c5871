"""A provider that answers oddly in the middle of a run: recognised, asked again, and never stored wrongly."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Callable
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from aiohttp import web

import perdure
from perdure.app import App
from perdure.domain.errors import EmbedderError
from perdure.domain.job import Job
from perdure.domain.state import Event, JobState
from perdure.embedders.hashing import HashingEmbedder
from perdure.pipeline import governor
from perdure.ports.embedder import Purpose
from perdure.testing.clock import MovableClock
from tests.servers.embedding_peer import EmbeddingPeer, Oddity, failed, serving

DIMENSION = 256
WORDS = [
    "ant",
    "bee",
    "cat",
    "dog",
    "elk",
    "fox",
    "gnu",
    "hen",
    "ibis",
    "jay",
    "koi",
    "lynx",
    "mole",
    "newt",
    "owl",
    "pig",
]
TEXTS = [f"This is the paragraph of the {word}, and of nobody else." for word in WORDS]


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    for what in ("PAUSE", "COOL", "COOLEST", "FRESH"):
        monkeypatch.setattr(governor, what, getattr(governor, what) / 50)


@pytest.fixture
async def peer() -> AsyncIterator[EmbeddingPeer]:
    async with serving(EmbeddingPeer(DIMENSION)) as peer:
        peer.key = None
        yield peer


def opened(peer: EmbeddingPeer, **settings: Any) -> App:
    embedder = f"openai:m@{peer.url}/v1?batch=4&timeout=20"
    return perdure.open(
        "memory:", **{"embedder": embedder, "chunking": "recursive:60", "poll_seconds": 0.01, **settings}
    )


async def ingested(app: App) -> tuple[Job, list[Event]]:
    job = await app.ingest_text("\n\n".join(TEXTS), document_id="doc")
    job = await app.wait(job.id, timeout=60)
    return job, [entry.event for entry in await app.jobs.store.history(job.tenant, job.id)]


async def check_stored(app: App, texts: list[str]) -> None:
    """Each text is there once, and is found by its own vector."""
    chunks = await app.vectors.chunks("default", "default", "doc", 1_000)
    assert [chunk.chunk_text for chunk in chunks] == texts
    for text in texts:
        [hit] = await app.search(text, mode="vector", limit=1)
        assert hit.chunk_text == text
        assert hit.score == pytest.approx(1.0, abs=1e-5)


def rows(body: Any, *, more: int = 0, dimension: int = DIMENSION) -> dict[str, Any]:
    count = len(body["input"]) + more
    vector = base64.b64encode(np.ones(dimension, dtype="<f4").tobytes()).decode()
    return {"data": [{"index": place, "embedding": vector} for place in range(count)]}


def later(body: Any) -> web.Response:
    """A date, of a server whose clock is a year behind."""
    told = MovableClock()().replace(year=2020, month=6, day=1)
    wait = told.replace(second=min(59, told.second + 1), minute=told.minute)
    headers = {
        "Date": format_datetime(told, usegmt=True),
        "Retry-After": format_datetime(wait, usegmt=True),
    }
    return failed(429, "slow down", headers=headers)


@pytest.mark.parametrize(
    "oddity",
    [
        lambda body: rows(body, more=-1),
        lambda body: rows(body, more=1),
        lambda body: rows(body, dimension=7),
        lambda body: rows(body, dimension=0),
        lambda _: {"error": {"message": "overloaded", "code": 503}},
        lambda _: {"object": "error", "message": "overloaded", "code": 500},
        lambda _: {"error": "the model broke"},
        lambda _: {"data": None},
        lambda _: web.Response(text="<html>Bad gateway</html>", status=502),
        lambda _: web.Response(text="{", content_type="application/json"),
        lambda _: failed(429, "slow down"),
        lambda _: failed(429, "slow down", headers={"Retry-After": "0.2"}),
        later,
        lambda _: failed(503, "slow down", headers={"Retry-After": "0.1"}),
    ],
    ids=[
        "fewer",
        "more",
        "shorter",
        "empty",
        "200-503",
        "200-vllm",
        "200-ollama",
        "200-null",
        "html",
        "cut",
        "429",
        "429-seconds",
        "429-date",
        "503-seconds",
    ],
)
async def test_an_odd_answer_costs_one_request_and_no_attempt(peer: EmbeddingPeer, oddity: Oddity) -> None:
    usual: Callable[[Any], None] = lambda _: None  # noqa: E731
    peer.odd = [usual, oddity, usual]
    async with opened(peer) as app:
        job, events = await ingested(app)
        assert (job.state, job.attempt, events) == (JobState.COMPLETED, 1, [Event.COMPLETED])
        assert len(peer.texts) == 5
        await check_stored(app, TEXTS)


async def test_an_odd_answer_that_stays_fails_the_job_and_nothing_is_published(peer: EmbeddingPeer) -> None:
    peer.odd = [lambda body: rows(body, dimension=7)] * 1_000
    async with opened(peer) as app:
        job = await app.ingest_text("\n\n".join(TEXTS), document_id="doc", max_attempts=1)
        job = await app.wait(job.id, timeout=60)
        assert job.state is JobState.FAILED
        assert job.failure is not None
        assert "vectors of [7] numbers; expected 256" in job.failure.message
        assert await app.vectors.document("default", "default", "doc") is None
        peer.odd = []
        await app.jobs.requeue(job.id, tenant="default")
        assert (await app.wait(job.id, timeout=60)).state is JobState.COMPLETED
        await check_stored(app, TEXTS)


async def test_an_outage_spends_no_attempt_of_any_job(
    peer: EmbeddingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "PATIENCE", {"document": 0.1, "query": 0.1})
    async with opened(peer) as app:
        await app.ingest_text("So that the dimension is known.", document_id="first")
        while await app.vectors.document("default", "default", "first") is None:
            await asyncio.sleep(0.01)
        peer.always = lambda _: web.Response(status=502)
        jobs = [await app.ingest_text(text, document_id=f"{place}") for place, text in enumerate(TEXTS)]
        peer.calls.clear()
        await asyncio.sleep(3)
        requests = len(peer.calls)
        peer.always = None
        begun = time.monotonic()
        jobs = [await app.wait(job.id, timeout=60) for job in jobs]
        assert time.monotonic() - begun < 30
        assert {job.state for job in jobs} == {JobState.COMPLETED}
        assert sum(job.attempt - 1 for job in jobs) <= 0
        assert requests <= 15  # five that failed, and probes at growing distances


class Short(HashingEmbedder):
    """One of the user's own that gives a vector too few, always."""

    async def embed(self, texts: Any, purpose: Purpose) -> Any:
        return (await super().embed(texts, purpose))[:-1]


async def test_an_embedder_of_ones_own_is_not_trusted_either(peer: EmbeddingPeer) -> None:
    async with opened(peer, embedder=f"python:{__name__}:Short") as app:
        job = await app.ingest_text("\n\n".join(TEXTS), document_id="doc", max_attempts=1)
        job = await app.wait(job.id, timeout=60)
        assert job.failure is not None
        assert job.failure.type == EmbedderError.__name__
        assert await app.vectors.document("default", "default", "doc") is None
