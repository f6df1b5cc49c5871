"""What did not change costs nothing: on real stores, counted at the provider."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

import perdure
from perdure.app import App
from perdure.domain.job import Job
from perdure.domain.state import JobState
from tests.servers.embedding_peer import EmbeddingPeer, serving
from tests.servers.postgres import vector_schema

CHUNKS = 1_000


@pytest.fixture
async def peer() -> AsyncIterator[EmbeddingPeer]:
    peer = EmbeddingPeer()
    peer.key = None
    async with serving(peer):
        yield peer


@pytest_asyncio.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=[pytest.mark.server, pytest.mark.xdist_group("postgres")]),
    ]
)
async def url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'p.db'}"
    else:
        async with vector_schema(request.getfixturevalue("postgres_url")) as url:
            yield url


@asynccontextmanager
async def opened(url: str, peer: EmbeddingPeer, model: str = "m", **settings: Any) -> AsyncIterator[App]:
    embedder = f"openai:{model}@{peer.url}/v1?batch=100"
    async with perdure.open(
        url, embedder=embedder, chunking="recursive:60", poll_seconds=0.05, **settings
    ) as app:
        yield app


def text(changed: Mapping[int, str] | None = None, chunks: int = CHUNKS) -> str:
    changed = changed or {}
    return "\n\n".join(
        changed.get(number, f"This is the paragraph with the number {number:04}, and no other.")
        for number in range(chunks)
    )


async def ingest(app: App, content: str, **options: Any) -> dict[str, Any]:
    """The job's result."""
    options = {"document_id": "doc", **options}
    job: Job = await app.ingest_text(content, **options)
    job = await app.wait(job.id, tenant=job.tenant, timeout=120)
    assert job.state is JobState.COMPLETED
    assert isinstance(job.result, dict)
    return job.result


async def test_three_chunks_of_a_thousand_changed_cost_three_embeddings(
    url: str, peer: EmbeddingPeer
) -> None:
    async with opened(url, peer, embed_cache_days=0) as app:  # the version before is enough for that
        first = await ingest(app, text())
        assert (first["chunks_total"], first["chunks_embedded"]) == (CHUNKS, CHUNKS)
        assert first["tokens_saved"] == 0
        peer.calls.clear()
        changed = {5: "Something else is said here.", 500: "And here, too.", 999: "Here as well."}
        second = await ingest(app, text(changed))
        assert sorted(chain(*peer.texts)) == sorted(changed.values())
        assert (second["chunks_embedded"], second["chunks_reused"]) == (3, CHUNKS - 3)
        assert second["tokens_saved"] > 10 * (CHUNKS - 3)
        assert second["tokens"] == 11


async def test_nothing_changed_costs_nothing_and_writes_nothing(url: str, peer: EmbeddingPeer) -> None:
    async with opened(url, peer) as app:
        first = await ingest(app, text(chunks=100))
        stored = await app.vectors.document("default", "default", "doc")
        peer.calls.clear()
        again = await ingest(app, text(chunks=100))
        assert peer.calls == []
        assert again["unchanged"] is True
        assert (again["chunks_embedded"], again["version"]) == (0, first["version"])
        assert await app.vectors.document("default", "default", "doc") == stored
        assert await app.vectors.sweep(100) == 0


async def test_a_known_text_costs_nothing_wherever_the_tenant_puts_it(url: str, peer: EmbeddingPeer) -> None:
    async with opened(url, peer) as app:
        first = await ingest(app, text(chunks=100), namespace="one")
        peer.calls.clear()
        elsewhere = await ingest(app, text(chunks=100), namespace="two", document_id="copy")
        assert (elsewhere["chunks_embedded"], elsewhere["chunks_reused"]) == (0, 100)
        assert (elsewhere["tokens"], elsewhere["tokens_saved"]) == (0, first["tokens"])
        await app.delete_document("doc", namespace="one")
        await app.vectors.sweep(1_000)
        again = await ingest(app, text(chunks=100), namespace="one")
        assert (again["chunks_embedded"], again["tokens_saved"]) == (0, first["tokens"])
        assert peer.calls == []
        [hit] = await app.search("the paragraph with the number 0042", namespace="two", limit=1)
        assert "0042" in hit.chunk_text
    async with opened(url, peer) as app:  # another process remembers it, too
        peer.calls.clear()
        await ingest(app, text(chunks=100), namespace="three")
        assert peer.texts == []


async def test_a_text_of_another_tenant_or_model_is_embedded(url: str, peer: EmbeddingPeer) -> None:
    async with opened(url, peer) as app:
        await ingest(app, text(chunks=10), tenant="a")
        other = await ingest(app, text(chunks=10), tenant="b")
        assert (other["chunks_embedded"], other["tokens_saved"]) == (10, 0)
    async with opened(url, peer, model="n") as app:
        assert (await ingest(app, text(chunks=10), tenant="a", namespace="n"))["chunks_embedded"] == 10
    async with opened(url, peer, embed_cache_days=0) as app:
        assert (await ingest(app, text(chunks=10), tenant="a", namespace="off"))["chunks_embedded"] == 10
