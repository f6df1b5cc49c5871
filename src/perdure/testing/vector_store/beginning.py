"""`begin` and `upsert`: a draft is there, and nobody sees it."""

from __future__ import annotations

import asyncio
import math
from contextlib import nullcontext, suppress
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, ModelMismatch, StaleWrite
from perdure.ports.vector_store import Begun, VectorStore
from perdure.testing.vector_store.base import (
    DIMENSION,
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    pack,
    publish,
    published,
    searched,
)

BAD_VECTORS: dict[str, bytes] = {
    "NaN": pack(*[0.5] * (DIMENSION - 1), math.nan),
    "infinity": pack(*[0.5] * (DIMENSION - 1), math.inf),
    "minus infinity": pack(-math.inf, *[0.5] * (DIMENSION - 1)),
    "a number too few": pack(*[0.5] * (DIMENSION - 1)),
    "a number too many": pack(*[0.5] * (DIMENSION + 1)),
    "a byte too many": pack(*[0.5] * DIMENSION) + b"\x00",
    "nothing": b"",
    "no direction": pack(*[0.0] * DIMENSION),
}


class BeginSuite(VectorStoreSuite):
    """Drafts."""

    async def test_the_abilities_are_those_expected(self, vectors: VectorStore) -> None:
        assert vectors.capabilities == self.capabilities

    async def test_a_store_that_searches_words_is_tested_for_it(self, vectors: VectorStore) -> None:
        names = {suite.__name__ for suite in type(self).__mro__}
        assert ("FullTextSuite" in names) == vectors.capabilities.full_text

    async def test_setup_again_keeps_what_is_stored(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        await vectors.setup()
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, draft)] == ids(chunks)

    async def test_a_first_draft_finds_nothing(self, vectors: VectorStore) -> None:
        assert await vectors.begin(make_draft()) == Begun(published=None, resumed=False)

    async def test_beginning_again_takes_the_draft_up(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        assert await vectors.begin(draft) == Begun(published=None, resumed=True)

    async def test_a_new_version_finds_the_one_before(self, vectors: VectorStore) -> None:
        first, _ = await published(vectors)
        expected = await document_of(vectors, first)
        assert await vectors.begin(make_draft(2)) == Begun(published=expected, resumed=False)

    async def test_a_published_version_may_be_begun_again_and_leads_to_nothing_new(
        self, vectors: VectorStore
    ) -> None:
        draft, chunks = await published(vectors)
        before = await document_of(vectors, draft)
        for epoch in (1, 2, 7):
            again = make_draft(epoch=epoch)
            assert (await vectors.begin(again)).published == before
            assert await vectors.missing(again, ids(chunks)) == set()
            await vectors.upsert(again, make_chunks(again, ["another text"]))
            assert await vectors.publish(again, ids(chunks)[:1]) == before
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, draft)] == ids(chunks)
        assert {hit.chunk_id for hit in await searched(vectors)} == set(ids(chunks))

    async def test_of_many_that_begin_at_once_each_hears_of_its_own(self, vectors: VectorStore) -> None:
        await published(vectors)
        drafts = [make_draft(id=f"new-{number}") for number in range(5)]
        odd = make_draft(id="odd", model="model-b", dimension=16)
        heard = await asyncio.gather(
            *(vectors.begin(draft) for draft in [*drafts, odd, drafts[0]]), return_exceptions=True
        )
        assert heard[:5] == [Begun(published=None, resumed=False)] * 5
        assert isinstance(heard[5], ModelMismatch)
        assert isinstance(heard[6], Begun)
        for draft in drafts:
            await publish(vectors, draft, make_chunks(draft))

    async def test_the_newest_of_those_that_begin_a_document_at_once_holds_it(
        self, vectors: VectorStore
    ) -> None:
        drafts = [make_draft(version) for version in (2, 1, 4, 3)]
        await asyncio.gather(*map(vectors.begin, drafts), return_exceptions=True)
        for draft in drafts:
            with pytest.raises(StaleWrite) if draft.document.version < 4 else nullcontext():
                await publish(vectors, draft, make_chunks(draft))
        [stored] = await vectors.documents(TENANT, NAMESPACE, 10)
        assert stored.document.version == 4

    async def test_nobody_sees_a_draft(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        await vectors.upsert(draft, chunks)
        assert await document_of(vectors, draft) is None
        assert await vectors.documents(TENANT, NAMESPACE, 10) == []
        assert await chunks_of(vectors, draft) == []
        assert await vectors.namespaces(TENANT) == []
        assert await searched(vectors) == []
        assert await vectors.vectors(draft, [chunks[0].chunk.chunk_hash]) == {}

    async def test_upsert_without_begin_is_refused(self, vectors: VectorStore) -> None:
        draft = make_draft()
        with pytest.raises(StaleWrite):
            await vectors.upsert(draft, make_chunks(draft))
        await vectors.begin(draft)
        assert len(await vectors.missing(draft, ids(make_chunks(draft)))) == 3

    async def test_upsert_of_nothing_is_nothing(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        await vectors.upsert(draft, [])
        assert await vectors.missing(draft, ["x"]) == {"x"}

    async def test_a_bad_vector_is_refused_with_all_that_came_with_it(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        for name, vector in BAD_VECTORS.items():
            chunks = make_chunks(draft)
            chunks[1] = replace(chunks[1], vector=vector)
            with pytest.raises(InvalidInput):
                await vectors.upsert(draft, chunks)
            assert await vectors.missing(draft, ids(chunks)) == set(ids(chunks)), name
            with pytest.raises(InvalidInput):
                await publish(vectors, draft, chunks)
            assert await document_of(vectors, draft) is None, name

    @pytest.mark.parametrize("over", [{"model": "model-b"}, {"dimension": 16}], ids=str)
    async def test_a_namespace_keeps_to_its_model(self, vectors: VectorStore, over: dict[str, Any]) -> None:
        await published(vectors)
        with pytest.raises(ModelMismatch):
            await vectors.begin(make_draft(id="another", **over))
        with pytest.raises(ModelMismatch):
            await vectors.begin(make_draft(2, **over))
        await published(vectors, id="another")
        await published(vectors, id="another", namespace="elsewhere", **over)

    async def test_an_emptied_namespace_may_be_filled_by_another_model(self, vectors: VectorStore) -> None:
        await published(vectors)
        await vectors.delete(TENANT, NAMESPACE, "leave")
        draft, chunks = await published(vectors, version=2, model="model-b", dimension=16)
        assert [chunk.chunk_id for chunk in await chunks_of(vectors, draft)] == ids(chunks)
        [namespace] = await vectors.namespaces(TENANT)
        assert (namespace.model, namespace.dimension) == ("model-b", 16)

    async def test_of_two_models_in_an_empty_namespace_only_one_is_published(
        self, vectors: VectorStore
    ) -> None:
        first, second = await begun(vectors, id="a"), make_draft(id="b", model="model-b", dimension=16)
        with suppress(ModelMismatch):
            await vectors.begin(second)
        await publish(vectors, first, make_chunks(first))
        with pytest.raises((ModelMismatch, StaleWrite)):
            await publish(vectors, second, make_chunks(second))
        [namespace] = await vectors.namespaces(TENANT)
        assert (namespace.model, namespace.dimension, namespace.documents) == ("model-a", DIMENSION, 1)
