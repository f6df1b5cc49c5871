"""Filters in a search agree with `perdure.domain.search.matches`, whatever keys and values there are."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from perdure.domain.record import Json
from perdure.domain.search import Compare, Every, Filter, Hit, Not, Some, matches, parse_filter
from perdure.ports.vector_store import VectorStore
from perdure.testing.vector_store.base import (
    VectorStoreSuite,
    begun,
    make_chunks,
    publish,
    published,
    searched,
)

KEYS = (
    "lang",
    "page",
    "a.b",
    'q"uote',
    "it's",
    "$",
    "[0]",
    "back\\slash",
    "",
    "Größe",
    "日本",
    "new\nline",
    "\u0001",
)
VALUES: tuple[Json, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    2,
    1.0,
    0.5,
    0.1,
    -0.0,
    1e300,
    2**53,
    2**53 + 1,
    float(2**53),
    2**63 - 1,
    -(2**63),
    "",
    "a",
    "A",
    "b",
    "ä",
    "1",
    "true",
    "null",
    "日本",
    "\uffff",
    "😀",
    "it's",
    '"',
    "%",
)
UNSTORABLE: tuple[Json, ...] = (2**64, -(2**70), 10**400, float("inf"), float("-inf"), "\ud800")
"""Values that metadata cannot hold, though somebody may ask for them."""
STORED_ONLY: tuple[Json, ...] = ([], ["a"], {}, {"a": 1})
"""Values that are kept and that no comparison but `ne` matches."""


class Cases:
    """Makes metadata and filters at random, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)

    def metadata(self) -> dict[str, Json]:
        """Some keys with some values."""
        keys = self.chance.sample(KEYS, self.chance.randint(0, 4))
        return {key: self.chance.choice((*VALUES, *STORED_ONLY)) for key in keys}

    def where(self, depth: int = 3) -> Filter:
        """Any filter that `parse_filter` may give."""
        kind = self.chance.choice(("compare", "compare", "every", "some", "not")) if depth else "compare"
        if kind == "not":
            return Not(part=self.where(depth - 1))
        if kind == "compare":
            return self.compare()
        parts = tuple(self.where(depth - 1) for _ in range(self.chance.randint(0, 3)))
        return Every(parts=parts) if kind == "every" else Some(parts=parts)

    def compare(self) -> Compare:
        """One comparison."""
        key = self.chance.choice(KEYS)
        wanted = VALUES if self.chance.random() < 0.9 else UNSTORABLE
        match self.chance.choice(("eq", "ne", "in", "gt", "gte", "lt", "lte")):
            case "in":
                items = [self.chance.choice(wanted) for _ in range(self.chance.randint(0, 4))]
                return Compare(key=key, op="in", value=items)
            case "eq" | "ne" as op:
                return Compare(key=key, op=op, value=self.chance.choice(wanted))
            case op:
                ordered = [value for value in wanted if value is not None and not isinstance(value, bool)]
                return Compare(key=key, op=op, value=self.chance.choice(ordered))


class FilterSuite(VectorStoreSuite):
    """Which chunks may be hits."""

    async def _fill(self, vectors: VectorStore, cases: Cases, documents: int) -> dict[str, dict[str, Json]]:
        """Publish documents; what holds of each chunk."""
        facts: dict[str, dict[str, Json]] = {}
        for number in range(documents):
            draft = await begun(vectors, id=f"d{number}", source_metadata=cases.metadata())
            chunks = [
                replace(item, chunk=replace(item.chunk, metadata=cases.metadata()))
                for item in make_chunks(draft, 3)
            ]
            await publish(vectors, draft, chunks)
            for item in chunks:
                facts[item.chunk.chunk_id] = item.chunk.metadata | draft.document.source_metadata
        return facts

    @pytest.mark.parametrize("seed", range(3))
    async def test_any_filter_finds_what_matches(self, vectors: VectorStore, seed: int) -> None:
        cases = Cases(seed)
        facts = await self._fill(vectors, cases, 40)
        for _ in range(80):
            where = cases.where()
            expected = {chunk_id for chunk_id, known in facts.items() if matches(where, known)}
            hits = await searched(vectors, where=where)
            assert {hit.chunk_id for hit in hits} == expected, where
            few = await searched(vectors, where=where, limit=5)
            assert [hit.chunk_id for hit in few] == [hit.chunk_id for hit in hits[:5]], where

    async def test_every_value_is_found_by_itself(self, vectors: VectorStore) -> None:
        values = (*VALUES, *STORED_ONLY)
        for place, value in enumerate(values):
            await published(vectors, 1, id=f"d{place}", source_metadata={"key": value})
        for where in _comparisons(VALUES):
            expected = {f"d{place}" for place, value in enumerate(values) if matches(where, {"key": value})}
            assert {hit.document_id for hit in await searched(vectors, where=where)} == expected, where

    async def test_every_key_is_found_by_itself(self, vectors: VectorStore) -> None:
        for place, key in enumerate(KEYS):
            await published(vectors, 1, id=f"d{place}", chunk_metadata={key: place})
        for place, key in enumerate(KEYS):
            hits = await searched(vectors, where=Compare(key=key, op="gte", value=0))
            assert [hit.document_id for hit in hits] == [f"d{place}"], key
            assert len(await searched(vectors, where=Compare(key=key, op="ne", value=place))) == len(KEYS) - 1

    async def test_the_documents_metadata_lies_over_the_chunks(self, vectors: VectorStore) -> None:
        of_chunk = {"lang": "de", "year": 2024, "page": 7}
        await published(vectors, 1, chunk_metadata=of_chunk, source_metadata={"lang": "en", "year": None})
        for spec, number in (
            ({"lang": "en"}, 1),
            ({"lang": "de"}, 0),
            ({"year": 2024}, 0),
            ({"year": None}, 1),
            ({"page": 7}, 1),
            ({"lang": {"ne": "de"}, "page": {"gt": 6, "lt": 8}}, 1),
        ):
            assert len(await searched(vectors, where=parse_filter(spec))) == number, spec

    async def test_a_filter_narrows_before_the_limit(self, vectors: VectorStore) -> None:
        await published(vectors, ["near"] * 50, id="near", source_metadata={"lang": "en"})
        await published(vectors, 8, id="far", source_metadata={"lang": "de"})
        where = parse_filter({"lang": "de"})
        assert _documents(await searched(vectors, "near", where=where, limit=8)) == {"far"}
        assert len(await searched(vectors, "near", where=where, limit=8)) == 8
        assert len(await searched(vectors, "near", document_ids=("far",), limit=5)) == 5

    async def test_only_of_some_documents(self, vectors: VectorStore) -> None:
        for name in ("a", "b", "c", "it's"):
            await published(vectors, 2, id=name, source_metadata={"name": name})
        assert _documents(await searched(vectors, document_ids=("a", "it's", "nothing"))) == {"a", "it's"}
        assert await searched(vectors, document_ids=("nothing",)) == []
        both = await searched(vectors, document_ids=("a", "b"), where=parse_filter({"name": {"ne": "b"}}))
        assert _documents(both) == {"a"}

    async def test_a_filter_sees_only_what_is_published(self, vectors: VectorStore) -> None:
        await published(vectors, 2, source_metadata={"state": "old"})
        await published(vectors, 3, 2, source_metadata={"state": "new"})
        draft = await begun(vectors, 3, source_metadata={"state": "draft"})
        await vectors.upsert(draft, make_chunks(draft))
        for state, number in (("old", 0), ("new", 3), ("draft", 0)):
            assert len(await searched(vectors, where=parse_filter({"state": state}))) == number

    async def test_large_and_deep_filters(self, vectors: VectorStore) -> None:
        await published(vectors, 1, id="a", source_metadata={"page": 7})
        await published(vectors, 1, id="b", source_metadata={"page": 8})
        seven = Compare(key="page", op="eq", value=7)
        deep: Filter = seven
        for _ in range(80):
            deep = Every(parts=(Not(part=Not(part=deep)),))
        wide = Some(parts=tuple(Compare(key="page", op="eq", value=number) for number in range(-3000, 8)))
        many = Compare(key="page", op="in", value=[*range(-40_000, 8)])
        for where in (seven, deep, wide, many):
            assert _documents(await searched(vectors, where=where)) == {"a"}


def _documents(hits: list[Hit]) -> set[str]:
    return {hit.document_id for hit in hits}


def _comparisons(values: tuple[Json, ...]) -> Iterator[Compare]:
    """Each value under each comparison that takes it."""
    for value in values:
        yield Compare(key="key", op="eq", value=value)
        yield Compare(key="key", op="ne", value=value)
        yield Compare(key="key", op="in", value=[value, "something else"])
        if value is not None and not isinstance(value, bool):
            for op in ("gt", "gte", "lt", "lte"):
                yield Compare(key="key", op=op, value=value)
