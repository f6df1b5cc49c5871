"""Documents embedded by a server: what is reported, and what its refusals do to jobs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

import perdure
from perdure.domain.errors import Fatal
from perdure.domain.state import Event, JobState
from perdure.pipeline import governor
from tests.servers.embedding_peer import KEY, EmbeddingPeer, failed, serving


@pytest.fixture
async def peer() -> AsyncIterator[EmbeddingPeer]:
    async with serving(EmbeddingPeer()) as peer:
        yield peer


def opened(peer: EmbeddingPeer, key: str = KEY, **settings: Any) -> perdure.App:
    return perdure.open(
        "memory:",
        embedder=f"openai:m@{peer.url}/v1",
        embedder_key=key,
        poll_seconds=0.01,
        concurrency=4,
        **settings,
    )


async def test_tokens_are_told_of_each_job_and_added_up_by_tenant_and_model(peer: EmbeddingPeer) -> None:
    async with opened(peer) as app:
        first = await app.ingest_text("Thirty days of leave.", tenant="a")
        other = await app.ingest_text("Salaries are paid.", tenant="b")
        first = await app.wait(first.id, tenant="a", timeout=60)
        other = await app.wait(other.id, tenant="b", timeout=60)
        assert isinstance(first.result, dict)
        assert isinstance(other.result, dict)
        told: list[Any] = [first.result["tokens"], other.result["tokens"]]
        assert sum(told) == 7  # of a batch that both shared only the sum is known
        assert min(told) > 0
        assert first.progress is not None
        assert first.progress.counts["tokens"] == told[0]
        assert dict(app.tokens) == {("a", "openai:m:8"): told[0], ("b", "openai:m:8"): told[1]}
        [hit] = await app.search("days of leave", tenant="a")
        assert hit.chunk_text == "Thirty days of leave."
        assert app.tokens["a", "openai:m:8"] == told[0] + 3


async def test_throttled_job_waits_as_long_as_asked_and_loses_no_attempt(peer: EmbeddingPeer) -> None:
    peer.odd = [lambda _: failed(429, "Rate limit reached", headers={"Retry-After": "0.05"})] * 7
    async with opened(peer) as app:
        job = await app.wait((await app.ingest_text("Thirty days of leave.")).id, timeout=60)
        assert (job.state, job.attempt) == (JobState.COMPLETED, 1)
        told = [entry.event for entry in await app.jobs.store.history(job.tenant, job.id)]
        assert told == [Event.COMPLETED]
        assert len(peer.texts) == 8


async def test_job_that_would_wait_for_long_goes_back_to_the_queue_and_loses_no_attempt(
    peer: EmbeddingPeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governor, "PATIENCE", {"document": 0.2, "query": 0.1})
    async with opened(peer) as app:
        await app.wait((await app.ingest_text("Salaries are paid.")).id, timeout=60)
        peer.odd = [lambda _: failed(429, "Rate limit reached", headers={"Retry-After": "1"})]
        begun = time.monotonic()
        job = await app.wait((await app.ingest_text("Thirty days of leave.")).id, timeout=60)
        assert time.monotonic() - begun >= 1
        assert (job.state, job.attempt) == (JobState.COMPLETED, 1)
        [released, _] = await app.jobs.store.history(job.tenant, job.id)
        assert released.event is Event.RELEASED
        assert "Rate limit reached" in str(released.detail)
        assert len(peer.texts) == 3


@pytest.mark.parametrize(
    ("settings", "held", "passes"),
    [
        ({"embed_limits": "openai=1rpd"}, "a", None),  # that one was for the dimension
        ({"embed_tenant_limits": "a=1rpd"}, "a", "b"),
        ({"embed_tenant_limits": "*=1rpd; b=9000rpm"}, "a", "b"),
    ],
)
async def test_limits_hold_up_those_whom_they_are_for(
    peer: EmbeddingPeer,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, str],
    held: str,
    passes: str | None,
) -> None:
    monkeypatch.setattr(governor, "PATIENCE", {"document": 0.1, "query": 0.1})
    async with opened(peer, **settings) as app:
        if passes is not None:
            first = await app.ingest_text("Thirty days of leave.", tenant=held)
            await app.wait(first.id, tenant=held, timeout=60)
        late = await app.ingest_text("Salaries are paid.", tenant=held)
        while not (told := await app.jobs.store.history(held, late.id)):
            await asyncio.sleep(0.01)
        assert told[0].event is Event.RELEASED
        assert "limit: 1 requests in 86400 s" in str(told[0].detail)
        for number in range(3 if passes else 0):
            job = await app.ingest_text(f"Salary {number} is paid.", tenant=str(passes))
            assert (await app.wait(job.id, tenant=str(passes), timeout=60)).state is JobState.COMPLETED
        assert (await app.jobs.get(late.id, tenant=held)).attempt == 0


async def test_wrong_key_fails_the_job_at_once_and_says_what_to_check(peer: EmbeddingPeer) -> None:
    async with opened(peer, "sk-wrong") as app:
        job = await app.wait((await app.ingest_text("Thirty days of leave.")).id, timeout=60)
        assert (job.state, job.attempt) == (JobState.FAILED, 1)
        assert job.failure is not None
        assert "check the key" in job.failure.message
        with pytest.raises(Fatal, match="check the key"):
            await app.search("leave")


async def test_server_that_was_down_at_first_is_asked_again(peer: EmbeddingPeer) -> None:
    peer.always = lambda _: web.Response(status=503, headers={"Retry-After": "0.05"})
    async with opened(peer) as app:
        job = await app.ingest_text("Thirty days of leave.")
        while not peer.calls:
            await asyncio.sleep(0.01)
        peer.always = None
        job = await app.wait(job.id, timeout=60)
        assert job.state is JobState.COMPLETED
