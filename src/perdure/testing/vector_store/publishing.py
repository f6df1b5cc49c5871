"""`publish`: a version becomes visible whole, in one step, once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk
from perdure.domain.errors import StoreError
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_vector,
    publish,
    published,
    searched,
    seen,
)


class PublishSuite(VectorStoreSuite):
    """Becoming visible."""

    async def test_publish_tells_what_readers_then_see(self, vectors: VectorStore) -> None:
        draft = await begun(vectors, 7, source_metadata={"lang": "en"})
        chunks = make_chunks(draft)
        stored = await publish(vectors, draft, chunks)
        assert stored.document == draft.document
        assert (stored.model, stored.dimension, stored.strategy) == (
            draft.model,
            draft.dimension,
            draft.strategy,
        )
        assert (stored.chunk_count, stored.complete, stored.epoch) == (3, True, draft.epoch)
        assert abs(datetime.now(UTC) - stored.published_at) < timedelta(minutes=10)
        assert await document_of(vectors, draft) == stored

    async def test_upserted_and_last_chunks_come_together(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft, 5)
        await vectors.upsert(draft, chunks[:2])
        await vectors.upsert(draft, chunks[2:3])
        stored = await vectors.publish(draft, ids(chunks), last=chunks[3:])
        assert stored.chunk_count == 5
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        assert await seen(vectors) == set(ids(chunks))

    async def test_exactly_the_chunks_named_are_seen(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft, 6)
        await vectors.upsert(draft, chunks[:4])
        stored = await vectors.publish(draft, ids(chunks[1:5]), last=chunks[4:])
        assert stored.chunk_count == 4
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks[1:5]]
        assert await seen(vectors) == set(ids(chunks[1:5]))
        [namespace] = await vectors.namespaces(TENANT)
        assert namespace.chunks == 4

    async def test_many_chunks_that_are_not_named_stay_unseen(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft, 200)
        await vectors.upsert(draft, chunks)
        await vectors.publish(draft, ids(chunks[150:]))
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks[150:]]
        assert await seen(vectors) == set(ids(chunks[150:]))
        await published(vectors, 2, 2)
        assert len(await seen(vectors)) == 2

    async def test_the_last_chunks_overwrite(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        await vectors.upsert(draft, chunks)
        moved = replace(chunks[0], vector=make_vector("elsewhere"))
        await vectors.publish(draft, ids(chunks), last=[moved])
        hits = await searched(vectors, "elsewhere")
        assert len(hits) == 3
        assert (hits[0].chunk_id, hits[0].score > 0.999) == (moved.chunk.chunk_id, True)

    async def test_a_document_may_come_with_no_chunks(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        stored = await vectors.publish(draft, [], complete=False)
        assert (stored.chunk_count, stored.complete) == (0, False)
        assert await document_of(vectors, draft) == stored
        assert await chunks_of(vectors, draft) == []
        assert await searched(vectors) == []
        draft, chunks = await published(vectors, version=2)
        assert await seen(vectors) == set(ids(chunks))

    async def test_missing_chunks_are_named_by_a_flag(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        stored = await vectors.publish(draft, ids(chunks[:2]), last=chunks[:2], complete=False)
        assert not stored.complete
        assert await document_of(vectors, draft) == stored

    async def test_publishing_what_is_not_stored_changes_nothing(self, vectors: VectorStore) -> None:
        before, old = await published(vectors, ["old"])
        standing = await document_of(vectors, before)
        draft = await begun(vectors, 2)
        chunks = make_chunks(draft, 4)
        await vectors.upsert(draft, chunks[:2])
        for last in ([], chunks[2:3]):
            with pytest.raises(StoreError):
                await vectors.publish(draft, ids(chunks), last=last)
            assert await document_of(vectors, before) == standing
            assert await seen(vectors) == set(ids(old))
        await vectors.publish(draft, ids(chunks), last=chunks[2:])
        assert await seen(vectors) == set(ids(chunks))

    async def test_until_then_readers_see_the_version_before(self, vectors: VectorStore) -> None:
        before, old = await published(vectors, ["a", "b"])
        standing = await document_of(vectors, before)
        draft = await begun(vectors, 2)
        new = make_chunks(draft, ["b", "c", "d"])
        for chunk in new:
            await vectors.upsert(draft, [chunk])
            assert await document_of(vectors, before) == standing
            assert await chunks_of(vectors, before) == [item.chunk for item in old]
            assert await seen(vectors) == set(ids(old))
        await vectors.publish(draft, ids(new))
        assert await chunks_of(vectors, draft) == [item.chunk for item in new]
        assert await seen(vectors) == set(ids(new))
        assert {hit.version for hit in await searched(vectors)} == {2}

    async def test_publishing_again_is_the_same(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        first = await publish(vectors, draft, chunks)
        assert await publish(vectors, draft, chunks) == first
        assert await vectors.publish(draft, ids(chunks)) == first
        assert await seen(vectors) == set(ids(chunks))
        [namespace] = await vectors.namespaces(TENANT)
        assert (namespace.documents, namespace.chunks) == (1, 3)

    async def test_a_lost_answer_may_be_asked_for_when_a_newer_version_was_begun(
        self, vectors: VectorStore
    ) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        first = await publish(vectors, draft, chunks)
        await begun(vectors, 2)
        assert await publish(vectors, draft, chunks) == first

    async def test_upsert_after_publish_changes_nothing(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        moved = [replace(item, vector=make_vector("elsewhere")) for item in chunks]
        await vectors.upsert(draft, moved)
        hits = await searched(vectors, "elsewhere")
        assert {hit.chunk_id for hit in hits} == set(ids(chunks))
        assert hits[0].score < 0.999

    async def test_a_large_document(self, vectors: VectorStore) -> None:
        draft, chunks = await self._large(vectors, 1)
        await self._large(vectors, 2)
        stored = await document_of(vectors, draft)
        assert stored is not None
        assert (stored.chunk_count, stored.document.version) == (len(chunks), 2)
        page = await vectors.chunks(TENANT, draft.document.namespace, draft.document.id, 100, 4949)
        assert [chunk.chunk_index for chunk in page] == list(range(4950, 5000))
        hits = await searched(vectors, chunks[4321].chunk.chunk_text, limit=1000)
        assert len(hits) == 1000
        assert (hits[0].chunk_index, hits[0].version) == (4321, 2)
        while await vectors.sweep(2000):
            pass
        assert await searched(vectors, chunks[4321].chunk.chunk_text, limit=1000) == hits

    async def _large(self, vectors: VectorStore, version: int) -> tuple[Draft, list[EmbeddedChunk]]:
        draft = await begun(vectors, version)
        chunks = make_chunks(draft, 5000)
        for first in range(0, 4500, 500):
            await vectors.upsert(draft, chunks[first : first + 500])
        await vectors.publish(draft, ids(chunks), last=chunks[4500:])
        return draft, chunks
