"""`missing` and `vectors`: what is stored already is not paid for twice."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.document import text_hash
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    DIMENSION,
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    ids,
    make_chunks,
    make_draft,
    make_vector,
    publish,
    published,
    searched,
)


class ResumeSuite(VectorStoreSuite):
    """Going on where a run before stopped."""

    async def test_all_is_missing_of_a_draft_never_heard_of(self, vectors: VectorStore) -> None:
        assert await vectors.missing(make_draft(), ["a", "b"]) == {"a", "b"}
        assert await vectors.missing(make_draft(), []) == set()
        assert await vectors.vectors(make_draft(), ["a"]) == {}

    async def test_what_was_stored_is_not_missing(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft, 5)
        await vectors.upsert(draft, chunks[1:3])
        assert await vectors.missing(draft, ids(chunks)) == set(ids([chunks[0], *chunks[3:]]))
        assert await vectors.missing(draft, ids(chunks[1:3])) == set()

    async def test_the_next_run_finds_what_the_one_before_stored(self, vectors: VectorStore) -> None:
        first = await begun(vectors)
        chunks = make_chunks(first, 5)
        await vectors.upsert(first, chunks[:3])
        second = make_draft(epoch=2)
        assert (await vectors.begin(second)).resumed
        assert await vectors.missing(second, ids(chunks)) == set(ids(chunks[3:]))
        await vectors.publish(second, ids(chunks), last=chunks[3:])
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, second)] == ids(chunks)

    async def test_what_is_published_is_not_missing(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        assert await vectors.missing(draft, [*ids(chunks), "x"]) == {"x"}

    async def test_an_incomplete_version_is_mended_by_a_newer_run_without_paying_twice(
        self, vectors: VectorStore
    ) -> None:
        first = await begun(vectors)
        chunks = make_chunks(first, 4)
        await vectors.publish(first, ids(chunks[:3]), last=chunks[:3], complete=False)
        second = await begun(vectors, epoch=2)
        assert await vectors.missing(second, ids(chunks)) == set(ids(chunks))
        hashes = [item.chunk.chunk_hash for item in chunks]
        known = await vectors.vectors(second, hashes)
        assert known == {item.chunk.chunk_hash: item.vector for item in chunks[:3]}
        await vectors.upsert(second, chunks[:2])
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, second)] == ids(chunks[:3])
        mended = await vectors.publish(second, ids(chunks), last=chunks[2:])
        assert (mended.complete, mended.chunk_count) == (True, 4)
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, second)] == ids(chunks)
        third = await begun(vectors, epoch=3)
        assert await vectors.missing(third, ids(chunks)) == set()

    async def test_another_versions_chunks_are_missing(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors)
        newer = await begun(vectors, 2)
        assert await vectors.missing(newer, ids(chunks)) == set(ids(chunks))

    async def test_chunks_of_a_superseded_version_are_missing(self, vectors: VectorStore) -> None:
        older = await begun(vectors)
        chunks = make_chunks(older)
        await vectors.upsert(older, chunks)
        newer = make_draft(2)
        assert not (await vectors.begin(newer)).resumed
        assert await vectors.missing(newer, ids(chunks)) == set(ids(chunks))

    async def test_chunks_that_another_model_embedded_are_missing(self, vectors: VectorStore) -> None:
        first = await begun(vectors)
        chunks = make_chunks(first)
        await vectors.upsert(first, chunks)
        second = make_draft(epoch=2, model="model-b", dimension=2 * DIMENSION)
        assert not (await vectors.begin(second)).resumed
        again = make_chunks(second)
        assert ids(again) == ids(chunks)
        assert await vectors.missing(second, ids(chunks)) == set(ids(chunks))
        await publish(vectors, second, again)
        hits = await searched(vectors, vector=again[0].vector)
        assert {hit.chunk_id for hit in hits} == set(ids(again))

    async def test_a_chunk_said_again_is_overwritten(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        other_vector = make_vector("elsewhere")
        for _ in range(2):
            await vectors.upsert(draft, chunks)
        await vectors.upsert(draft, [replace(chunks[1], vector=other_vector)])
        stored = await vectors.publish(draft, ids(chunks))
        assert stored.chunk_count == 3
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, draft)] == ids(chunks)
        hits = await searched(vectors, vector=other_vector)
        assert len(hits) == 3
        assert hits[0].chunk_id == chunks[1].chunk.chunk_id
        assert hits[0].score > 0.999

    async def test_the_same_chunk_twice_in_one_call_is_one(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        [chunk] = make_chunks(draft, 1)
        await vectors.upsert(draft, [chunk, chunk])
        stored = await vectors.publish(draft, ids([chunk, chunk]), last=[chunk, chunk])
        assert stored.chunk_count == 1
        assert len(await searched(vectors)) == 1
        [namespace] = await vectors.namespaces(TENANT)
        assert namespace.chunks == 1

    async def test_unchanged_texts_need_no_embedding(self, vectors: VectorStore) -> None:
        await published(vectors, ["kept", "gone"])
        draft = await begun(vectors, 2)
        hashes = [text_hash(text) for text in ("kept", "new")]
        assert await vectors.vectors(draft, hashes) == {text_hash("kept"): make_vector("kept")}
        assert await vectors.vectors(draft, []) == {}

    async def test_only_the_same_document_lends_its_vectors(self, vectors: VectorStore) -> None:
        await published(vectors, ["kept"])
        for draft in (
            make_draft(2, id="another"),
            make_draft(2, namespace="elsewhere"),
            make_draft(2, tenant="bolt"),
        ):
            assert await vectors.vectors(draft, [text_hash("kept")]) == {}

    async def test_only_the_same_model_lends_its_vectors(self, vectors: VectorStore) -> None:
        await published(vectors, ["kept"])
        for draft in (make_draft(2, model="model-b"), make_draft(2, dimension=2 * DIMENSION)):
            assert await vectors.vectors(draft, [text_hash("kept")]) == {}

    async def test_vectors_come_from_what_readers_see_now(self, vectors: VectorStore) -> None:
        await published(vectors, ["old", "kept"])
        draft, _ = await published(vectors, ["new", "kept"], 2)
        hashes = [text_hash(text) for text in ("old", "new", "kept")]
        assert await vectors.vectors(draft, hashes) == {
            text_hash(text): make_vector(text) for text in ("new", "kept")
        }
        await vectors.delete(TENANT, NAMESPACE, "leave")
        assert await vectors.vectors(draft, hashes) == {}
