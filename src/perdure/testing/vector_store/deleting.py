"""`delete`: a document goes, and work under way does not bring it back."""

from __future__ import annotations

import pytest

from perdure.domain.document import Draft
from perdure.domain.errors import StaleWrite
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    publish,
    published,
    seen,
)


async def delete(vectors: VectorStore, document_id: str = "leave", version: int | None = None) -> int:
    """Delete a document, all of it or up to a version."""
    return await vectors.delete(TENANT, NAMESPACE, document_id, version=version)


class DeleteSuite(VectorStoreSuite):
    """Deletion."""

    async def _cannot_come_back(self, vectors: VectorStore, draft: Draft) -> None:
        chunks = make_chunks(draft)
        for call in (
            lambda: vectors.begin(draft),
            lambda: vectors.upsert(draft, chunks),
            lambda: publish(vectors, draft, chunks),
        ):
            with pytest.raises(StaleWrite):
                await call()

    async def test_a_deleted_document_is_gone(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        _, others = await published(vectors, id="another")
        assert await delete(vectors) == len(chunks)
        assert await document_of(vectors, draft) is None
        assert await chunks_of(vectors, draft) == []
        assert await seen(vectors) == set(ids(others))
        assert [one.document.id for one in await vectors.documents(TENANT, NAMESPACE, 10)] == ["another"]
        [namespace] = await vectors.namespaces(TENANT)
        assert (namespace.documents, namespace.chunks) == (1, 3)

    async def test_deleting_again_deletes_nothing(self, vectors: VectorStore) -> None:
        await published(vectors)
        assert [await delete(vectors) for _ in range(3)] == [3, 0, 0]
        assert await vectors.namespaces(TENANT) == []

    async def test_deleting_what_was_never_there_deletes_nothing(self, vectors: VectorStore) -> None:
        assert await delete(vectors, "never") == 0
        draft, _ = await published(vectors, id="never")
        assert await document_of(vectors, draft) is not None

    async def test_work_under_way_does_not_bring_it_back(self, vectors: VectorStore) -> None:
        await published(vectors, version=1)
        draft = await begun(vectors, 2, 1)
        await vectors.upsert(draft, make_chunks(draft)[:2])
        assert await delete(vectors) == 3
        for version, epoch in ((2, 1), (2, 2), (1, 1), (1, 9)):
            await self._cannot_come_back(vectors, make_draft(version, epoch))
        assert await seen(vectors) == set()

    async def test_a_draft_alone_is_deleted_too(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        await vectors.upsert(draft, make_chunks(draft))
        assert await delete(vectors) == 0
        await self._cannot_come_back(vectors, draft)
        assert await vectors.missing(draft, ids(make_chunks(draft))) == set(ids(make_chunks(draft)))

    async def test_a_newer_version_may_come(self, vectors: VectorStore) -> None:
        await published(vectors, version=4)
        await delete(vectors)
        draft, chunks = await published(vectors, version=5)
        assert await seen(vectors) == set(ids(chunks))
        assert await delete(vectors) == 3
        await self._cannot_come_back(vectors, draft)

    async def test_a_deletion_up_to_a_version_keeps_a_newer_one(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors, version=3)
        assert await delete(vectors, version=2) == 0
        assert await seen(vectors) == set(ids(chunks))
        assert await publish(vectors, draft, chunks) == await document_of(vectors, draft)

    async def test_a_deletion_up_to_a_version_keeps_a_newer_draft(self, vectors: VectorStore) -> None:
        await published(vectors, version=1)
        draft = await begun(vectors, 2)
        chunks = make_chunks(draft)
        await vectors.upsert(draft, chunks[:2])
        assert await delete(vectors, version=1) == 3
        assert await seen(vectors) == set()
        assert await vectors.missing(draft, ids(chunks)) == set(ids(chunks[2:]))
        await vectors.publish(draft, ids(chunks), last=chunks[2:])
        assert await seen(vectors) == set(ids(chunks))

    @pytest.mark.parametrize("known", [False, True])
    async def test_a_deletion_up_to_a_version_keeps_it_from_coming(
        self, vectors: VectorStore, known: bool
    ) -> None:
        if known:
            await published(vectors, version=1)
        assert await delete(vectors, version=5) == (3 if known else 0)
        await self._cannot_come_back(vectors, make_draft(5))
        await delete(vectors, version=2)
        await self._cannot_come_back(vectors, make_draft(5))
        _, chunks = await published(vectors, version=6)
        assert await seen(vectors) == set(ids(chunks))
