"""The whole way with jobs in SQLite and vectors in Pinecone, which shows writes late."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

import perdure
from perdure.app import App
from perdure.domain.errors import InvalidInput
from perdure.domain.state import Event, JobState
from tests.servers.pinecone_peer import KEY, PineconePeer, serving

pytestmark = [pytest.mark.server, pytest.mark.timeout(400)]

PAGES = Path(__file__).parents[2] / "docs" / "reference"


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[PineconePeer]:
    async with serving(PineconePeer(dimension=256)) as peer:
        peer.lag = 0.2
        yield peer


def app_on(peer: PineconePeer, folder: Path, *, worker: bool = True) -> App:
    """The app as it is opened by URLs and a key beside them."""
    return perdure.open(
        f"sqlite:///{folder / 'jobs.db'}",
        vectors=peer.url.replace(f":{KEY}@", ""),
        pinecone_api_key=KEY,
        embedder="hashing",
        lease_seconds=8.0,
        worker=worker,
    )


async def done(app: App, job_id: str) -> None:
    assert (await app.wait(job_id, timeout=100)).state is JobState.COMPLETED


async def test_from_files_to_hits_to_a_new_version_to_nothing(peer: PineconePeer, tmp_path: Path) -> None:
    pages = sorted(PAGES.glob("stores*.md"))
    async with app_on(peer, tmp_path) as app:
        jobs = [await app.ingest(page, document_id=page.name, metadata={"kind": "page"}) for page in pages]
        for job in jobs:
            await done(app, job.id)
        [chunk] = await app.vectors.chunks("default", "default", "stores-mongodb.md", 1)
        best = (await app.search(chunk.chunk_text, limit=3, mode="vector"))[0]
        assert (best.document_id, best.chunk_id) == ("stores-mongodb.md", chunk.chunk_id)
        assert best.chunk_text in (PAGES / best.document_id).read_text()
        hits = await app.search("cosmos", where={"kind": "page"}, document_ids=["stores.md"])
        assert {hit.document_id for hit in hits} == {"stores.md"}
        [namespace] = await app.vectors.namespaces("default")
        assert namespace.documents == len(pages)

        changed = await app.ingest_text("Marmalade is made of oranges.", document_id="stores.md")
        await done(app, changed.id)
        [hit] = await app.search("marmalade", document_ids=["stores.md"])
        assert (hit.chunk_text, hit.ingestion_id) == ("Marmalade is made of oranges.", changed.id)

        assert await app.delete_ingestion(changed.id) == 1
        assert await app.search("marmalade", document_ids=["stores.md"]) == []
        with pytest.raises(InvalidInput, match="full text"):
            await app.search("marmalade", mode="text")
    async with app_on(peer, tmp_path, worker=False) as app:
        assert {hit.document_id for hit in await app.search("store", limit=100)} == {
            page.name for page in pages if page.name != "stores.md"
        }


@pytest.mark.fault
async def test_a_worker_that_is_killed_between_upsert_and_publish(peer: PineconePeer, tmp_path: Path) -> None:
    words = "All about oranges and lemons, page by page. " * 20
    async with app_on(peer, tmp_path) as app:
        await done(app, (await app.ingest_text("The old text.", document_id="fruit")).id)
    async with app_on(peer, tmp_path, worker=False) as app:
        job = await app.ingest_text(
            "\n\n".join(f"{number}. {words}" for number in range(40)), document_id="fruit"
        )

        def held(route: str, body: dict[str, object]) -> bool:
            """Its chunks are there; what makes them visible never comes."""
            return route == "/vectors/upsert" and "/p/" in str(body)[:300]

        peer.held = held
        worker = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "perdure", "worker"),
            env={
                **os.environ,
                "PERDURE_STORE": f"sqlite:///{tmp_path / 'jobs.db'}",
                "PERDURE_VECTORS": peer.url,
                "PERDURE_EMBEDDER": "hashing",
                "PERDURE_LEASE_SECONDS": "8",
            },
        )
        try:
            async with asyncio.timeout(100):
                await peer.holds.wait()
        finally:
            worker.kill()
            await worker.wait()
        assert {hit.chunk_text for hit in await app.search("oranges", limit=100)} == {"The old text."}
    peer.held = lambda route, body: False
    async with app_on(peer, tmp_path) as app:
        await done(app, job.id)
        kept = await app.jobs.get(job.id, tenant="default")
        assert kept.rescues >= 1
        assert isinstance(kept.result, dict)
        total = kept.result["chunks_total"]
        assert isinstance(total, int)
        assert total > 20
        assert kept.result["chunks_embedded"] == 0
        assert Event.RESCUED in {entry.event for entry in await app.jobs.history(job.id, tenant="default")}
        hits = await app.search("oranges", limit=1000)
        assert sorted(hit.chunk_index for hit in hits) == list(range(total))
        while await app.vectors.sweep(1000):
            pass
        assert len(peer.newest("perdure/default/default")) == total


async def test_what_is_missing_is_said_when_it_is_opened(tmp_path: Path) -> None:
    for store, words in (
        ("pinecone://host", "keeps vectors, not jobs"),
        ("redis://127.0.0.1:1/0", "PERDURE_BLOBS=sqlite"),
    ):
        with pytest.raises(InvalidInput, match=words):
            async with perdure.open(store, vectors="pinecone://:key@127.0.0.1:1"):
                pass
    with pytest.raises(InvalidInput, match="PINECONE_API_KEY"):
        async with perdure.open(f"sqlite:///{tmp_path / 'jobs.db'}", vectors="pinecone://host"):
            pass
