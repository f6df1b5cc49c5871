"""`search`: exactly the nearest, in order, as many as were asked for."""

from __future__ import annotations

import random
import struct

import pytest
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput, ModelMismatch
from perdure.domain.search import Hit, SearchQuery
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    DIMENSION,
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    make_chunks,
    make_vector,
    pack,
    publish,
    published,
    searched,
)

NEAR = 1e-5
"""How far scores in float32 may be off."""


def cosine(left: bytes, right: bytes) -> float:
    """Compute the cosine similarity as it is defined."""
    a, b = (struct.unpack(f"<{len(vector) // 4}f", vector) for vector in (left, right))
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return float(dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5)


class SearchSuite(VectorStoreSuite):
    """Search by meaning."""

    def _check(self, hits: list[Hit], vector: bytes, stored: dict[str, bytes], limit: int) -> None:
        """Compare with the definition: the right scores, none left out that is nearer, the right order."""
        scores = {chunk_id: cosine(vector, other) for chunk_id, other in stored.items()}
        assert len(hits) == min(limit, len(stored))
        assert len({hit.chunk_id for hit in hits}) == len(hits)
        for hit in hits:
            assert abs(hit.score - scores[hit.chunk_id]) < NEAR
            assert -1 <= hit.score <= 1
        best = sorted(scores.values(), reverse=True)[: len(hits)]
        assert all(abs(hit.score - score) < NEAR for hit, score in zip(hits, best, strict=True))
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    @pytest.mark.parametrize("seed", range(3))
    async def test_the_nearest_come_first(self, vectors: VectorStore, seed: int) -> None:
        chance = random.Random(seed)
        stored: dict[str, bytes] = {}
        for number in range(25):
            draft = await begun(vectors, id=f"d{number}")
            chunks = make_chunks(draft, chance.randint(1, 12))
            stretched = [
                replace(item, vector=_stretched(item.vector, 10 ** chance.uniform(-6, 6))) for item in chunks
            ]
            stored |= {item.chunk.chunk_id: item.vector for item in stretched}
            await publish(vectors, draft, stretched)
        for limit in (1, 2, 7, 40, 1000):
            vector = make_vector((seed, limit))
            self._check(await searched(vectors, vector=vector, limit=limit), vector, stored, limit)

    async def test_the_length_of_a_vector_means_nothing(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        await publish(vectors, draft, chunks)
        for factor in (1e-6, 1.0, 1e6):
            hits = await searched(vectors, vector=_stretched(chunks[1].vector, factor))
            assert hits[0].chunk_id == chunks[1].chunk.chunk_id
            assert abs(hits[0].score - 1.0) < NEAR

    async def test_the_opposite_is_farthest(self, vectors: VectorStore) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft)
        await publish(vectors, draft, chunks)
        hits = await searched(vectors, vector=_stretched(chunks[1].vector, -1.0))
        assert hits[-1].chunk_id == chunks[1].chunk.chunk_id
        assert abs(hits[-1].score + 1.0) < NEAR

    @pytest.mark.parametrize(
        ("alike", "limit"), [(5, 3), (40, 1), (300, 7), (300, 299), (300, 300), (5000, 3)]
    )
    async def test_equals_come_by_chunk_id(self, vectors: VectorStore, alike: int, limit: int) -> None:
        draft = await begun(vectors)
        nearer, *chunks = make_chunks(draft, alike + 1)
        same = [replace(item, vector=make_vector("the same text everywhere")) for item in chunks]
        await publish(vectors, draft, [nearer, *same])
        expected = sorted(item.chunk.chunk_id for item in same)
        hits = await searched(vectors, "the same text everywhere", limit=limit)
        assert [hit.chunk_id for hit in hits] == expected[:limit]
        hits = await searched(vectors, vector=nearer.vector, limit=limit)
        assert [hit.chunk_id for hit in hits] == [nearer.chunk.chunk_id, *expected][:limit]

    async def test_drafts_and_old_versions_take_nobodys_place(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors, [f"far {number}" for number in range(30)], id="far")
        for version in range(1, 6):
            await published(vectors, ["near"] * 40, version, id="near")
        await vectors.delete(TENANT, NAMESPACE, "near")
        draft = await begun(vectors, 9, id="draft")
        await vectors.upsert(draft, make_chunks(draft, ["near"] * 300))
        for limit in (1, 10, 30, 100):
            hits = await searched(vectors, "near", limit=limit)
            assert len(hits) == min(limit, len(chunks))
            assert {hit.document_id for hit in hits} == {"far"}

    async def test_the_limit_is_kept(self, vectors: VectorStore) -> None:
        await published(vectors, 30)
        assert [len(await searched(vectors, limit=limit)) for limit in (1, 29, 30, 31)] == [1, 29, 30, 30]
        assert len(await vectors.search(_query(vector=make_vector("x")))) == 10

    async def test_an_unknown_namespace_has_no_hits(self, vectors: VectorStore) -> None:
        await published(vectors)
        assert await searched(vectors, namespace="elsewhere") == []
        assert await searched(vectors, tenant="bolt") == []
        await vectors.delete(TENANT, NAMESPACE, "leave")
        assert await searched(vectors) == []

    async def test_a_vector_of_another_dimension_is_refused(self, vectors: VectorStore) -> None:
        await published(vectors)
        for dimension in (DIMENSION - 1, DIMENSION + 1, 2 * DIMENSION):
            with pytest.raises(ModelMismatch):
                await searched(vectors, vector=make_vector("x", dimension))

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), 0.0])
    async def test_a_vector_without_direction_is_refused(self, vectors: VectorStore, number: float) -> None:
        await published(vectors)
        with pytest.raises(InvalidInput):
            await searched(vectors, vector=pack(*[number] * DIMENSION))

    async def test_a_query_without_vector_is_refused(self, vectors: VectorStore) -> None:
        await published(vectors)
        with pytest.raises(InvalidInput):
            await vectors.search(_query(text="leave"))

    @pytest.mark.parametrize("dimension", [1, 3, 384, 1536])
    async def test_any_usual_dimension(self, vectors: VectorStore, dimension: int) -> None:
        _, chunks = await published(vectors, 5, dimension=dimension)
        stored = {item.chunk.chunk_id: item.vector for item in chunks}
        vector = make_vector("query", dimension)
        self._check(await searched(vectors, vector=vector), vector, stored, 1000)


def _stretched(vector: bytes, factor: float) -> bytes:
    return pack(*(factor * number for number in struct.unpack(f"<{len(vector) // 4}f", vector)))


def _query(**over: object) -> SearchQuery:
    return SearchQuery(**{"tenant": TENANT, "namespace": NAMESPACE, **over})  # type: ignore[arg-type]  # as in the record
