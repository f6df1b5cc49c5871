"""Tenants and namespaces are walls, in every call."""

from __future__ import annotations

from typing import Any

from perdure.domain.document import Draft
from perdure.domain.search import SearchQuery
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
    make_vector,
    published,
    searched,
)

ELSEWHERE: tuple[dict[str, Any], ...] = (
    {"tenant": "bolt"},
    {"namespace": "elsewhere"},
    {"tenant": NAMESPACE, "namespace": TENANT},
    {"tenant": TENANT + NAMESPACE, "namespace": ""},
    {"tenant": TENANT.upper()},
    {"namespace": NAMESPACE.upper()},
    {"tenant": "%"},
    {"tenant": "*"},
)
"""Places that hold the same document under the same id, or nothing."""


class WallSuite(VectorStoreSuite):
    """Who sees what."""

    async def test_no_read_goes_through(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        for over in ELSEWHERE:
            away = make_draft(**over)
            place = (away.document.tenant, away.document.namespace)
            assert await document_of(vectors, away) is None
            assert await chunks_of(vectors, away) == []
            assert await vectors.documents(*place, 10) == []
            assert await vectors.missing(away, ids(chunks)) == set(ids(chunks))
            assert await vectors.vectors(away, [chunks[0].chunk.chunk_hash]) == {}
            assert await searched(vectors, **over) == []
            near = SearchQuery(
                tenant=place[0], namespace=place[1], vector=make_vector("x"), document_ids=("leave",)
            )
            assert await vectors.search(near) == []
            if place[0] != TENANT:
                assert await vectors.namespaces(place[0]) == []
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]

    async def test_the_same_document_in_many_places(self, vectors: VectorStore) -> None:
        stored: list[tuple[Draft, list[str]]] = []
        for number, over in enumerate(({}, *ELSEWHERE)):
            draft, chunks = await published(
                vectors, [f"text {number}", "the same text"], version=number + 1, **over
            )
            stored.append((draft, ids(chunks)))
        for draft, chunk_ids in stored:
            standing = await document_of(vectors, draft)
            assert standing is not None
            assert standing.document == draft.document
            place = {"tenant": draft.document.tenant, "namespace": draft.document.namespace}
            assert {hit.chunk_id for hit in await searched(vectors, **place)} == set(chunk_ids)

    async def test_no_write_goes_through(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors)
        standing = await document_of(vectors, draft)
        for over in ELSEWHERE:
            away = make_draft(9, **over)
            assert (await vectors.begin(away)).published is None
            await vectors.upsert(away, make_chunks(away))
            await vectors.delete(away.document.tenant, away.document.namespace, "leave")
        newer = await begun(vectors, 2)
        assert await document_of(vectors, draft) == standing
        assert await chunks_of(vectors, newer) == [item.chunk for item in chunks]

    async def test_the_same_chunk_id_in_two_places_is_two_chunks(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors)
        other = make_draft(tenant="bolt")
        await vectors.begin(other)
        await vectors.publish(other, ids(chunks), last=chunks)
        assert await vectors.delete("bolt", NAMESPACE, "leave") == 3
        assert {hit.chunk_id for hit in await searched(vectors)} == set(ids(chunks))

    async def test_a_crowd_next_door_takes_nobodys_place(self, vectors: VectorStore) -> None:
        for number, over in enumerate(ELSEWHERE[:2]):
            await published(vectors, ["near"] * 200, id=f"crowd{number}", **over)
        await published(vectors, 12)
        hits = await searched(vectors, "near", limit=12)
        assert [hit.document_id for hit in hits] == ["leave"] * 12
