from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from perdure.domain.errors import InvalidInput
from perdure.domain.search import Hit, SearchQuery, parse_filter
from perdure.embedders.hashing import HashingEmbedder
from perdure.pipeline.search import Searcher, fuse
from perdure.pipeline.source import bytes_source
from perdure.ports.vector_store import VectorCapabilities
from perdure.vectors.memory import MemoryVectorStore
from tests.unit.pipeline.fakes import target, vectorize

PAGES = {
    "leave": "Every employee has thirty days of leave a year.",
    "pay": "Salaries are paid on the last working day.",
    "sick": "Whoever is sick calls the office before nine.",
    "travel": "Travel is booked by the office, in the second class.",
}


@pytest.fixture
async def store() -> MemoryVectorStore:
    store = MemoryVectorStore()
    for name, text in PAGES.items():
        source = bytes_source(f"{name}.txt", text.encode())
        await vectorize(
            store, HashingEmbedder(), source, target(document_id=name, topic=name, size=len(text))
        )
    return store


@pytest.fixture
def searcher(store: MemoryVectorStore) -> Searcher:
    return Searcher(store, HashingEmbedder())


async def ask(searcher: Searcher, text: str, **options: Any) -> list[str]:
    hits = await searcher.search(text, tenant="default", namespace="default", **options)
    return [hit.document_id for hit in hits]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_best_answer_comes_first(searcher: Searcher, mode: str) -> None:
    assert (await ask(searcher, "how many days of leave", mode=mode))[0] == "leave"


async def test_scores_go_down(searcher: Searcher) -> None:
    hits = await searcher.search("the office", tenant="default", namespace="default")
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


async def test_limit_filter_and_documents_narrow(searcher: Searcher) -> None:
    assert len(await ask(searcher, "the office", limit=1)) == 1
    assert await ask(searcher, "the office", where=parse_filter({"topic": "sick"})) == ["sick"]
    assert set(await ask(searcher, "the office", document_ids=["pay", "leave"])) == {"pay", "leave"}


async def test_threshold_is_a_cosine(searcher: Searcher) -> None:
    assert await ask(searcher, PAGES["pay"], mode="vector", threshold=0.99) == ["pay"]
    assert await ask(searcher, "nothing of the kind whatsoever", mode="vector", threshold=0.99) == []


async def test_unknown_namespace_has_no_hits(searcher: Searcher) -> None:
    assert await searcher.search("leave", tenant="default", namespace="nowhere") == []


async def test_other_tenant_has_no_hits(searcher: Searcher) -> None:
    assert await searcher.search("leave", tenant="other", namespace="default") == []


@pytest.mark.parametrize("text", ["", " \n", "x" * 10_001, "a\0b", "lone \ud800"])
async def test_query_that_is_none_is_refused(searcher: Searcher, text: str) -> None:
    with pytest.raises(InvalidInput, match="query"):
        await ask(searcher, text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1001}, "limit is 1001"),
        ({"effort": 0}, "effort is 0; expected 1 to 32768"),
        ({"effort": 32_769}, "effort is 32769"),
        ({"mode": "magic"}, "expected hybrid, vector or text"),
        ({"threshold": 0.5}, "with mode 'vector'"),
        ({"threshold": 0.5, "mode": "text"}, "with mode 'vector'"),
        ({"threshold": 2.0, "mode": "vector"}, "expected a cosine similarity"),
    ],
)
async def test_arguments_that_do_not_fit_are_refused(
    searcher: Searcher, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput, match=message):
        await ask(searcher, "leave", **options)


class WordlessStore(MemoryVectorStore):
    """A store without full text search."""

    @property
    def capabilities(self) -> VectorCapabilities:
        return replace(super().capabilities, full_text=False)

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        raise AssertionError("never asked without the capability")


async def test_store_without_full_text_searches_by_meaning_and_says_so_when_asked_for_words() -> None:
    store = WordlessStore()
    await vectorize(store, HashingEmbedder(), bytes_source("a.txt", b"thirty days of leave"), target())
    searcher = Searcher(store, HashingEmbedder())
    assert await ask(searcher, "days of leave") == ["doc"]
    with pytest.raises(InvalidInput, match="use mode 'vector'"):
        await ask(searcher, "days of leave", mode="text")


def hit(chunk_id: str, score: float = 0.5) -> Hit:
    return Hit(
        score=score,
        document_id="doc",
        version=1,
        ingestion_id="job",
        chunk_id=chunk_id,
        chunk_index=0,
        chunk_text="text",
        start=0,
        end=4,
        metadata={},
        chunk_metadata={},
    )


def ids(hits: Sequence[Hit]) -> str:
    return "".join(hit.chunk_id for hit in hits)


def ranking(letters: str, best: float, step: float) -> list[Hit]:
    return [hit(letter, best - step * place) for place, letter in enumerate(letters)]


@pytest.mark.parametrize(
    ("near", "worded", "fused"),
    [
        ("abc", "abc", "abc"),
        ("abc", "", "abc"),
        ("", "abc", "abc"),
        ("", "", ""),
        (
            "abc",
            "ca",
            "acb",
        ),  # words confirm the nearest; what they name most counts before what is nearer by a little
        ("axcd", "bx", "xbacd"),  # what both found is before the best of either
        ("abcd", "e", "eabcd"),  # the one that has the words is before what lies near by chance
    ],
)
def test_fusion_prefers_what_both_rankings_have(near: str, worded: str, fused: str) -> None:
    assert ids(fuse(ranking(near, 0.6, 0.05), ranking(worded, 9.0, 1.0))) == fused


def test_what_lies_much_nearer_is_before_what_has_a_common_word() -> None:
    near = [hit("a", 0.9), hit("b", 0.2)]
    assert ids(fuse(near, [hit("b", 0.3), hit("c", 0.3)])) == "abc"


def test_the_scale_of_the_words_scores_means_nothing() -> None:
    near = ranking("abcdef", 0.5, 0.02)
    small, large = (fuse(near, ranking("fgb", 3 * unit, unit)) for unit in (0.01, 100))
    assert ids(small) == ids(large)
    assert [one.score for one in small] == pytest.approx([other.score for other in large])


def test_fused_score_is_the_weighted_sum_of_shares() -> None:
    both, single = fuse([hit("a", 1.0), hit("b", 0.0)], [hit("a", 7.0)])
    assert both.score == pytest.approx(1.0)
    assert single.score == pytest.approx(0.8 * 0.5)


def test_scores_that_leave_nothing_to_divide_by_are_no_error() -> None:
    assert [one.score for one in fuse([hit("a", -1.0)], [])] == [0.0]
    assert ids(fuse([], [hit("b", 0.0)])) == "b"


class FlippingStore(MemoryVectorStore):
    """Publishes a new version of a document between the search by meaning and the one by words."""

    def __init__(self, flips: int) -> None:
        super().__init__()
        self.flips = flips

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        if self.flips:
            self.flips -= 1
            await edit(self, 10 - self.flips)
        return await super().search_text(query)


async def edit(store: MemoryVectorStore, version: int) -> None:
    text = f"Leave, edition {version}.\n\n" + "thirty days of leave " * 3
    source = bytes_source("leave.txt", text.encode())
    await vectorize(store, HashingEmbedder(), source, target(document_id="leave", version=version))


@pytest.mark.parametrize("flips", [1, 2, 9])
async def test_no_answer_is_of_two_versions_of_a_document(flips: int) -> None:
    store = FlippingStore(flips)
    await edit(store, 1)
    hits = await Searcher(store, HashingEmbedder()).search("leave", tenant="default", namespace="default")
    assert len({hit.version for hit in hits}) == 1
