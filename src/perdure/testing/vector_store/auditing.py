"""`audit`, `mend` and `tidy` of stores in which nothing is wrong: they find nothing, and change nothing."""

from __future__ import annotations

from perdure.ports.vector_store import Audit, Surplus, VectorStore
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    make_chunks,
    publish,
    published,
    searched,
)


async def audit_of(vectors: VectorStore, document_id: str = "leave") -> Audit:
    """What the store says of one document, and what lies there."""
    [(asked, audit)] = await vectors.audit(TENANT, NAMESPACE, [document_id])
    assert asked == document_id
    return audit


class AuditSuite(VectorStoreSuite):
    """Whether all is as it should be."""

    async def test_of_the_unknown_there_is_nothing_to_tell(self, vectors: VectorStore) -> None:
        assert await vectors.audit(TENANT, NAMESPACE, ["leave", "other"]) == [
            ("leave", Audit()),
            ("other", Audit()),
        ]
        assert await vectors.audit(TENANT, NAMESPACE, []) == []
        assert await vectors.mend(TENANT, NAMESPACE, "leave") == Audit()
        assert await vectors.tidy(TENANT, NAMESPACE, 10, remove=True) == Surplus()

    async def test_what_was_published_drafted_replaced_and_deleted_is_as_it_should_be(
        self, vectors: VectorStore
    ) -> None:
        await published(vectors, 150)
        await published(vectors, 70, 2)  # a large version that waits to be swept
        draft, chunks = await published(vectors, 4, 3)
        await published(vectors, 90, id="gone")
        await vectors.delete(TENANT, NAMESPACE, "gone")
        later = await begun(vectors, 4)
        await vectors.upsert(later, make_chunks(later, 5))
        await published(vectors, 2, namespace="elsewhere")
        hits = await searched(vectors)
        for remove in (False, True):
            audit = await audit_of(vectors)
            assert (audit.stored, audit.chunks, audit.vectors) == (await document_of(vectors, draft), 4, 4)
            assert audit.whole
            assert await audit_of(vectors, "gone") == Audit(deleted=1)
            assert await vectors.mend(TENANT, NAMESPACE, "leave") == audit
            assert await vectors.tidy(TENANT, NAMESPACE, 1000, remove=remove) == Surplus()
            assert await vectors.sweep(1000) <= 310
        assert await searched(vectors) == hits
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        stored = await publish(vectors, later, make_chunks(later, 5))
        assert (await audit_of(vectors)).stored == stored

    async def test_a_document_is_its_own_tenants(self, vectors: VectorStore) -> None:
        await published(vectors)
        assert await vectors.audit("other", NAMESPACE, ["leave"]) == [("leave", Audit())]
        assert await vectors.mend("other", NAMESPACE, "leave") == Audit()
        assert (await audit_of(vectors)).whole
