"""`document`, `documents`, `chunks`, `namespaces`: what is stored comes back as it was."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from perdure.domain.document import EmbeddedChunk, Namespace
from perdure.domain.record import Json
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    DIMENSION,
    MODEL,
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

TEXTS = (
    "Größe, naïve, Ångström, İstanbul",
    "日本語のテキスト と emoji 👩‍👩‍👧‍👦🏳️‍🌈",
    "עברית العربية हिन्दी ไทย",
    "combining e\u0301, zero\u200bwidth, right\u202eleft, byte order \ufeff mark",
    "line\r\nbreaks\u2028and\ttabs\x01and controls \x7f",
    "'; DROP TABLE vector_chunks; --",
    '"quotes" \\ backslash % _ * ? {} [] ()',
    "\U0010ffff\uffff\ue000",
    "   ",
    "x" * 100_000,
)
ODD_NAMES = (
    "a",
    "A",
    "b c",
    "d/e.md",
    "é",
    "e\u0301",
    "日本",
    "'",
    '"',
    "%",
    "_",
    "-",
    "0",
    "~",
    "😀",
    "\uffff",
)
METADATA: dict[str, Json] = {
    "": "empty key",
    "heading": ["Leave", "Parental leave"],
    "page": 7,
    "ratio": 0.1,
    "whole": 1.0,
    "large": 2**63 - 1,
    "small": -(2**63),
    "none": None,
    "yes": True,
    "no": False,
    "nested": {"a": [{"b": None}, [], {}]},
    'odd "key" $.[0] \\ \n': "Größe 👍",
}


class ReadSuite(VectorStoreSuite):
    """Looking at what is there."""

    async def test_an_unknown_document_is_none(self, vectors: VectorStore) -> None:
        assert await vectors.document(TENANT, NAMESPACE, "nothing") is None
        assert await vectors.documents(TENANT, NAMESPACE, 10) == []
        assert await vectors.chunks(TENANT, NAMESPACE, "nothing", 10) == []
        assert await vectors.namespaces(TENANT) == []

    async def test_any_text_comes_back_as_it_was(self, vectors: VectorStore) -> None:
        draft, chunks = await published(vectors, TEXTS)
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        assert {hit.chunk_text for hit in await searched(vectors)} == set(TEXTS)

    async def test_spans_and_metadata_come_back_as_they_were(self, vectors: VectorStore) -> None:
        draft = await begun(vectors, source_metadata=METADATA)
        chunks = make_chunks(draft, 3, METADATA)
        chunks[1] = _changed(chunks[1], start=123_456_789_012, end=123_456_789_999, chunk_strategy="another")
        chunks[2] = _changed(chunks[2], metadata={})
        stored = await publish(vectors, draft, chunks)
        assert stored.document == draft.document
        assert repr(stored.document.source_metadata) == repr(METADATA)
        assert await document_of(vectors, draft) == stored
        assert await chunks_of(vectors, draft) == [item.chunk for item in chunks]
        assert repr((await chunks_of(vectors, draft))[0].metadata) == repr(METADATA)
        for hit in await searched(vectors):
            chunk = chunks[hit.chunk_index].chunk
            assert hit.metadata == METADATA
            assert hit.chunk_metadata == chunk.metadata
            assert (hit.start, hit.end, hit.chunk_id) == (chunk.start, chunk.end, chunk.chunk_id)
            assert (hit.document_id, hit.version) == (draft.document.id, draft.document.version)
            assert hit.ingestion_id == draft.document.ingestion_id

    async def test_what_the_caller_changes_later_changes_nothing(self, vectors: VectorStore) -> None:
        draft = await begun(vectors, source_metadata={"tags": ["a"]})
        chunks = make_chunks(draft, 1, {"tags": ["b"]})
        await publish(vectors, draft, chunks)
        draft.document.source_metadata["tags"] = "changed"
        chunks[0].chunk.metadata["tags"] = "changed"
        for _ in range(2):
            [hit] = await searched(vectors)
            [chunk] = await chunks_of(vectors, draft)
            assert (hit.metadata, hit.chunk_metadata) == ({"tags": ["a"]}, {"tags": ["b"]})
            assert chunk.metadata == {"tags": ["b"]}
            hit.metadata["tags"] = hit.chunk_metadata["tags"] = chunk.metadata["tags"] = "changed"

    async def test_any_name_of_a_document_is_its_own(self, vectors: VectorStore) -> None:
        for name in ODD_NAMES:
            await published(vectors, [f"text of {name}"], id=name)
        for name in ODD_NAMES:
            [chunk] = await vectors.chunks(TENANT, NAMESPACE, name, 10)
            assert chunk.chunk_text == f"text of {name}"

    @pytest.mark.parametrize("size", [1, 2, 5, 100])
    async def test_documents_come_in_pages_by_id(self, vectors: VectorStore, size: int) -> None:
        for name in reversed(ODD_NAMES):
            await published(vectors, 1, id=name)
        await begun(vectors, id="a draft")
        names: list[str] = []
        while page := await vectors.documents(TENANT, NAMESPACE, size, names[-1] if names else None):
            assert len(page) <= size
            names += [stored.document.id for stored in page]
            await published(vectors, 1, len(names) + 1, id=ODD_NAMES[0])
        assert names == sorted(ODD_NAMES)

    @pytest.mark.parametrize("size", [1, 3, 7, 100])
    async def test_chunks_come_in_pages_by_index(self, vectors: VectorStore, size: int) -> None:
        draft = await begun(vectors)
        chunks = make_chunks(draft, 7)
        await vectors.upsert(draft, [chunks[place] for place in (3, 0, 6, 5, 1)])
        await vectors.publish(draft, [item.chunk.chunk_id for item in chunks], last=[chunks[2], chunks[4]])
        indexes: list[int] = []
        while page := await vectors.chunks(TENANT, NAMESPACE, "leave", size, indexes[-1] if indexes else -1):
            assert len(page) <= size
            indexes += [chunk.chunk_index for chunk in page]
        assert indexes == list(range(7))

    async def test_namespaces_count_what_readers_see(self, vectors: VectorStore) -> None:
        await published(vectors, 2, id="a", namespace="b-space")
        await published(vectors, 3, id="b", namespace="b-space")
        await published(vectors, 4, id="a", namespace="a-space", model="model-b", dimension=4)
        await begun(vectors, id="c", namespace="b-space")
        await begun(vectors, id="c", namespace="c-space")
        assert await vectors.namespaces(TENANT) == [
            _namespace("a-space", 1, 4, "model-b", 4),
            _namespace("b-space", 2, 5),
        ]
        await published(vectors, 1, 2, id="b", namespace="b-space")
        await vectors.delete(TENANT, "a-space", "a")
        assert await vectors.namespaces(TENANT) == [_namespace("b-space", 2, 3)]


def _changed(item: EmbeddedChunk, **over: object) -> EmbeddedChunk:
    return replace(item, chunk=replace(item.chunk, **over))


def _namespace(
    name: str, documents: int, chunks: int, model: str = MODEL, dimension: int = DIMENSION
) -> Namespace:
    return Namespace(
        tenant=TENANT, name=name, model=model, dimension=dimension, documents=documents, chunks=chunks
    )
