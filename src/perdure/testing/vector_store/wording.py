"""`search_text`: any text is a legal query, and what holds its words is found."""

from __future__ import annotations

import pytest

from perdure.domain.errors import InvalidInput
from perdure.domain.search import SearchQuery, parse_filter
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    VectorStoreSuite,
    begun,
    found,
    make_chunks,
    make_vector,
    published,
)

FILLER = [f"some words about nothing much, number {number}" for number in range(20)]

ODD_QUERIES = (
    '"',
    '""',
    "'",
    '"unbalanced',
    "AND",
    "OR OR",
    "NOT",
    "NEAR(a b)",
    "marmalade AND",
    "*",
    "mar*",
    "^marmalade",
    "body:marmalade",
    "namespace : n1",
    "{body namespace} : x",
    "-marmalade",
    "+marmalade",
    "(marmalade",
    "marmalade)",
    "marmalade | & ! <-> :*",
    "a:b:c",
    "%_\\",
    "; DROP TABLE vector_words; --",
    "$where",
    "\x01\x02",
    "marm\x00alade",
    "\ud800",
    "😀",
    "🏳️‍🌈",
    "\u202e\u200b",
    "...",
    "???!",
    "x" * 50_000,
    "word " * 5_000,
    " ".join(f"w{number}" for number in range(3_000)),
)


class FullTextSuite(VectorStoreSuite):
    """Search by words."""

    async def test_chunks_with_the_word_are_found(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors, [*FILLER, "orange marmalade", "lemon curd and marmalade"])
        hits = await found(vectors, "marmalade")
        assert {hit.chunk_index for hit in hits} == {20, 21}
        assert {hit.chunk_text for hit in hits} == {item.chunk.chunk_text for item in chunks[20:]}
        assert await found(vectors, "quince") == []

    async def test_case_means_nothing(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "Orange MARMALADE", "größe"])
        assert [hit.chunk_index for hit in await found(vectors, "marmalade")] == [20]
        assert [hit.chunk_index for hit in await found(vectors, "ORANGE")] == [20]
        assert [hit.chunk_index for hit in await found(vectors, "GRÖSSE größe")] == [21]

    async def test_any_of_the_words_will_do_and_more_are_better(self, vectors: VectorStore) -> None:
        await published(
            vectors, [*FILLER, "marmalade of oranges", "toast without jam", "toast with marmalade"]
        )
        hits = await found(vectors, "marmalade toast")
        assert {hit.chunk_index for hit in hits} == {20, 21, 22}
        assert hits[0].chunk_index == 22
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    async def test_words_that_punctuation_joins_are_found_each(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "marmalade", "toast", "toast-marmalade"])
        assert {hit.chunk_index for hit in await found(vectors, "marmalade,toast")} == {20, 21, 22}
        assert {hit.chunk_index for hit in await found(vectors, '"marmalade" (toast)')} == {20, 21, 22}

    async def test_words_that_the_query_joins_are_better_together(self, vectors: VectorStore) -> None:
        texts = [*FILLER, "a dump of pg; it is a dump, so dump pg", "by pg_dump, said once among other words"]
        await published(vectors, texts)
        hits = await found(vectors, "pg_dump")
        assert hits[0].chunk_index == 21

    async def test_words_of_other_scripts_are_found(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "отпуск по уходу", "άδεια μητρότητας", "חופשה שנתית"])
        for place, word in ((20, "отпуск"), (21, "άδεια"), (22, "חופשה")):
            assert [hit.chunk_index for hit in await found(vectors, word)] == [place]

    async def test_no_query_is_an_error(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "orange marmalade"])
        for query in ODD_QUERIES:
            hits = await found(vectors, query)
            assert len({hit.chunk_id for hit in hits}) == len(hits) <= 21, query[:50]

    async def test_operators_are_words(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "orange marmalade"])
        for query in ("marmalade AND", "(marmalade", "-marmalade", '"marmalade', "^marmalade", "x:marmalade"):
            assert [hit.chunk_index for hit in await found(vectors, query)] == [20], query

    async def test_a_query_without_words_finds_nothing(self, vectors: VectorStore) -> None:
        await published(vectors)
        for query in ("", " ", "?!", "\n"):
            assert await found(vectors, query) == []

    async def test_a_query_without_text_is_refused(self, vectors: VectorStore) -> None:
        with pytest.raises(InvalidInput):
            await vectors.search_text(
                SearchQuery(tenant=TENANT, namespace=NAMESPACE, vector=make_vector("x"))
            )

    async def test_the_limit_is_filled_and_equals_come_by_chunk_id(self, vectors: VectorStore) -> None:
        _, chunks = await published(vectors, [*FILLER, *["the same marmalade"] * 30])
        expected = sorted(item.chunk.chunk_id for item in chunks[20:])
        for limit in (1, 10, 30):
            hits = await found(vectors, "marmalade", limit=limit)
            assert [hit.chunk_id for hit in hits] == expected[:limit]

    async def test_only_what_is_published_is_found(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "orange marmalade"])
        draft = await begun(vectors, 2)
        chunks = make_chunks(draft, [*FILLER, "lemon marmalade"])
        await vectors.upsert(draft, chunks)
        assert [hit.chunk_text for hit in await found(vectors, "marmalade lemon")] == ["orange marmalade"]
        await vectors.publish(draft, [item.chunk.chunk_id for item in chunks])
        assert [hit.chunk_text for hit in await found(vectors, "marmalade orange")] == ["lemon marmalade"]
        await vectors.delete(TENANT, NAMESPACE, "leave")
        assert await found(vectors, "marmalade") == []

    async def test_filters_narrow_before_the_limit(self, vectors: VectorStore) -> None:
        await published(vectors, ["marmalade marmalade"] * 30, id="a", source_metadata={"lang": "en"})
        await published(vectors, ["some other marmalade"] * 5, id="b", source_metadata={"lang": "de"})
        await published(vectors, FILLER, id="c")
        german = await found(vectors, "marmalade", where=parse_filter({"lang": "de"}), limit=5)
        assert [hit.document_id for hit in german] == ["b"] * 5
        chosen = await found(vectors, "marmalade", document_ids=("b", "c"), limit=5)
        assert [hit.document_id for hit in chosen] == ["b"] * 5
        huge = await found(vectors, "marmalade", where=parse_filter({"lang": {"ne": 2**70}}), limit=50)
        assert len(huge) == 35

    async def test_words_keep_to_their_namespace(self, vectors: VectorStore) -> None:
        await published(vectors, [*FILLER, "orange marmalade"])
        assert await found(vectors, "marmalade", namespace="elsewhere") == []
        assert await found(vectors, "marmalade", tenant="bolt") == []
        await published(vectors, [*FILLER, "lemon marmalade"], tenant="bolt")
        assert [hit.chunk_text for hit in await found(vectors, "marmalade")] == ["orange marmalade"]
        assert [hit.chunk_text for hit in await found(vectors, "marmalade", tenant="bolt")] == [
            "lemon marmalade"
        ]
