"""Filters in Pinecone's language never leave out what matches, and say so where they let more through."""

from __future__ import annotations

import pytest

from perdure.domain.search import Compare, Every, Filter, Not, Some, matches, parse_filter
from perdure.testing.vector_store.filtering import VALUES, Cases
from perdure.vectors.pinecone.filters import Native, compiled, tokens
from tests.servers.pinecone_peer import check, holds, stored


def passes(native: Native, metadata: dict[str, object]) -> bool:
    if isinstance(native, bool):
        return native
    check(native)
    return holds(native, stored({"id": "x", "metadata": metadata}))


@pytest.mark.parametrize("seed", range(4))
def test_any_filter(seed: int) -> None:
    cases = Cases(seed)
    known = [cases.metadata() for _ in range(40)]
    for _ in range(40):
        where = cases.where()
        native, exact = compiled(where)
        for metadata in known:
            found, wanted = passes(native, dict(tokens(metadata))), matches(where, metadata)
            assert found or not wanted, (where, metadata)
            assert found == wanted or not exact, (where, metadata)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_every_comparison_and_its_opposite(value: object) -> None:
    ops = ("eq", "ne", "gt", "gte", "lt", "lte") if isinstance(value, (int, float, str)) else ("eq", "ne")
    for op in ops:
        compare = Compare(key="key", op=op, value=value)  # type: ignore[arg-type]  # as in the record
        for where in (compare, Not(part=compare)):
            native, exact = compiled(where)
            for held in VALUES:
                metadata = {"key": held}
                found, wanted = passes(native, dict(tokens(metadata))), matches(where, metadata)
                assert found if wanted else not (found and exact), (where, held)


@pytest.mark.parametrize(
    "spec",
    [
        {"lang": "en"},
        {"page": {"gte": 3, "lt": 9}},
        {"lang": {"in": ["en", "de"]}},
        {"not": {"any": [{"lang": "en"}, {"draft": True}, {"page": None}]}},
        {"lang": {"ne": "en"}},
    ],
)
def test_what_people_ask_for_is_said_exactly(spec: object) -> None:
    _, exact = compiled(parse_filter(spec))
    assert exact


def test_many_alternatives_become_one_list() -> None:
    wide = Some(parts=tuple(Compare(key="page", op="eq", value=number) for number in range(3000)))
    native, _ = compiled(Every(parts=(wide,)))
    assert isinstance(native, dict)
    assert list(native) == ["n:page"]
    assert len(native["n:page"]["$in"]) == 3000


def test_what_is_too_large_is_left_to_a_second_look() -> None:
    many: Filter = Compare(key="page", op="in", value=list(range(40_000)))
    for where in (many, Not(part=many), Every(parts=(many, Compare(key="lang", op="eq", value="en")))):
        native, exact = compiled(where)
        assert not exact
        assert (
            passes(native, dict(tokens({"page": 50_000 if where != many else 7, "lang": "en"})))
            or where != many
        )
