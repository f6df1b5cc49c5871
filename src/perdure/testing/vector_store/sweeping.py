"""`sweep`: what nobody sees goes, bite by bite, and nothing else does."""

from __future__ import annotations

from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    ids,
    make_chunks,
    publish,
    published,
    searched,
)


async def sweep_all(vectors: VectorStore, bite: int) -> int:
    """Sweep until nothing is left; how many chunks went."""
    total = 0
    while swept := await vectors.sweep(bite):
        assert swept <= bite
        total += swept
    return total


class SweepSuite(VectorStoreSuite):
    """Clearing away."""

    async def test_nothing_to_sweep(self, vectors: VectorStore) -> None:
        assert await vectors.sweep(10) == 0
        await published(vectors)
        await begun(vectors, 2)
        assert await vectors.sweep(10) == 0

    async def test_readers_notice_nothing(self, vectors: VectorStore) -> None:
        for version, number in ((1, 150), (2, 5)):
            await published(vectors, number, version)
        draft, chunks = await published(vectors, 130, 3)
        await published(vectors, 140, id="gone")
        await vectors.delete(TENANT, NAMESPACE, "gone")
        hits = await searched(vectors)
        assert await sweep_all(vectors, 37) <= 150 + 5 + 140
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        assert await searched(vectors) == hits
        assert await vectors.sweep(1000) == 0

    async def test_a_live_draft_loses_nothing(self, vectors: VectorStore) -> None:
        old = await begun(vectors, 1)
        await vectors.upsert(old, make_chunks(old, 120))
        draft = await begun(vectors, 2)
        chunks = make_chunks(draft, 130)
        await vectors.upsert(draft, chunks[:100])
        assert await sweep_all(vectors, 50) <= 120
        assert await vectors.missing(draft, ids(chunks)) == set(ids(chunks[100:]))
        await vectors.publish(draft, ids(chunks), last=chunks[100:])
        assert await sweep_all(vectors, 50) == 0
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]

    async def test_a_swept_document_may_come_again(self, vectors: VectorStore) -> None:
        await published(vectors, 100)
        await vectors.delete(TENANT, NAMESPACE, "leave")
        await sweep_all(vectors, 64)
        draft = await begun(vectors, 2)
        chunks = make_chunks(draft, 70)
        await publish(vectors, draft, chunks)
        assert {hit.chunk_id for hit in await searched(vectors)} == set(ids(chunks))
