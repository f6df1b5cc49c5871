"""`affirm`: what did not change is begun without more ado."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.domain.document import Draft
from perdure.domain.errors import StaleWrite
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    published,
)

NESTED = {"lang": "en", "pages": [1, 2.5, None], "by": {"name": "Zoë", "quote": '"'}}


def again(draft: Draft, version: int, epoch: int = 1, **over: object) -> Draft:
    """The same content as a draft's, in a newer version."""
    document = replace(draft.document, version=version, ingestion_id="another", **over)
    return replace(draft, document=document, epoch=epoch)


class AffirmSuite(VectorStoreSuite):
    """Unchanged documents, many at a time."""

    async def test_what_readers_see_already_is_begun_at_once(self, vectors: VectorStore) -> None:
        drafts = [(await published(vectors, id=each, source_metadata=NESTED))[0] for each in ("a", "b", "c")]
        seen = [await document_of(vectors, draft) for draft in drafts]
        known = await vectors.affirm([again(draft, 3) for draft in drafts])
        if not vectors.capabilities.affirms:
            assert known == [None] * 3
            return
        assert known == seen
        assert await vectors.affirm([again(draft, 3) for draft in drafts]) == seen, "it may be said again"
        for draft in drafts:
            with pytest.raises(StaleWrite):
                await vectors.begin(make_draft(2, id=draft.document.id))
            assert (await vectors.begin(make_draft(4, id=draft.document.id))).resumed is False

    async def test_what_readers_do_not_see_already_is_left_alone(self, vectors: VectorStore) -> None:
        draft, _ = await published(vectors, source_metadata=NESTED)
        others = [
            again(draft, 2, content_hash="f" * 64),
            again(draft, 2, source_metadata={"lang": "de"}),
            again(draft, 2, source_metadata={}),
            replace(again(draft, 2), strategy="sentences"),
        ]
        for other in (*others, again(draft, 2, id="another"), again(draft, 2, namespace="elsewhere")):
            assert await vectors.affirm([other]) == [None], other
        assert await vectors.affirm([replace(again(draft, 2), model="model-b")]) == [None]
        assert await vectors.affirm([]) == []
        await begun(vectors, 2)  # nobody holds it
        assert await vectors.document(*(draft.document.tenant, draft.document.namespace, "another")) is None

    async def test_an_incomplete_a_deleted_and_an_older_one_are_not_affirmed(
        self, vectors: VectorStore
    ) -> None:
        partial = await begun(vectors, id="partial")
        chunks = make_chunks(partial)
        await vectors.publish(partial, ids(chunks), last=chunks, complete=False)
        gone, _ = await published(vectors, id="gone")
        await vectors.delete(gone.document.tenant, gone.document.namespace, "gone")
        newer, _ = await published(vectors, version=5, id="newer")
        wanted = [again(partial, 2), again(gone, 2), again(newer, 4), again(newer, 5, epoch=0)]
        assert [(await vectors.affirm([one]))[0] for one in wanted] == [None] * 4

    async def test_a_draft_with_chunks_goes_on(self, vectors: VectorStore) -> None:
        draft, _ = await published(vectors)
        under_way = await begun(vectors, 2)
        chunks = make_chunks(under_way)
        await vectors.upsert(under_way, chunks)
        assert await vectors.affirm([again(draft, 3)]) == [None]
        await vectors.publish(under_way, ids(chunks))
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, under_way)] == ids(chunks)
