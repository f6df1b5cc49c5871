"""Metadata filters: how they are read, and what they match."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json
from perdure.domain.search import (
    MAX_LIMIT,
    Compare,
    Every,
    Not,
    SearchQuery,
    Some,
    matches,
    parse_filter,
)

CHUNK: dict[str, Json] = {"lang": "en", "page": 7, "draft": False, "score": 0.5, "note": None, "tags": ["a"]}


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        (None, None),
        ({}, None),
        ({"lang": "en"}, Compare(key="lang", op="eq", value="en")),
        ({"page": {"gte": 3}}, Compare(key="page", op="gte", value=3)),
        (
            {"page": {"gte": 3, "lt": 9}},
            Every(parts=(Compare(key="page", op="gte", value=3), Compare(key="page", op="lt", value=9))),
        ),
        (
            {"lang": "en", "draft": False},
            Every(
                parts=(Compare(key="lang", op="eq", value="en"), Compare(key="draft", op="eq", value=False))
            ),
        ),
        ({"lang": {"in": ["en", None]}}, Compare(key="lang", op="in", value=["en", None])),
        (
            {"any": [{"a": 1}, {"b": 2}]},
            Some(parts=(Compare(key="a", op="eq", value=1), Compare(key="b", op="eq", value=2))),
        ),
        ({"all": [{"a": 1}]}, Every(parts=(Compare(key="a", op="eq", value=1),))),
        ({"not": {"a": None}}, Not(part=Compare(key="a", op="eq", value=None))),
        ({"not": {}}, Not(part=Every(parts=()))),
        ({"any": []}, Some(parts=())),
    ],
)
def test_a_filter_is_read_from_json(spec: object, parsed: object) -> None:
    assert parse_filter(spec) == parsed


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lang=en", "a filter must be an object like {'lang': 'en'}, got 'lang=en'"),
        ([{"a": 1}], "a filter must be an object"),
        ({"any": {"a": 1}}, "'any' in a filter takes a list of filters, got {'a': 1}"),
        ({"all": [1]}, "a filter must be an object like {'lang': 'en'}, got 1"),
        ({"page": {}}, "the filter on 'page' is empty; expected e.g. {'gte': 3}"),
        (
            {"page": {"near": 3}},
            "'near' is no comparison of a filter; expected eq, ne, in, gt, gte, lt or lte",
        ),
        ({"page": {"gte": None}}, "'page' gte None in a filter: expected a number or text"),
        ({"page": {"lt": True}}, "'page' lt True in a filter: expected a number or text"),
        ({"page": {"in": 3}}, "'page' in 3 in a filter: expected a list of texts, numbers"),
        ({"page": {"in": [[3]]}}, "'page' in [[3]] in a filter: expected a list of texts, numbers"),
        ({"page": [3]}, "'page' eq [3] in a filter: expected a text, number, boolean or null"),
        ({"page": {"ne": {}}}, "'page' ne {} in a filter: expected a text, number, boolean or null"),
    ],
)
def test_what_is_not_understood_is_named(spec: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_filter(spec)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ({}, True),
        ({"lang": "en"}, True),
        ({"lang": "EN"}, False),
        ({"page": 7}, True),
        ({"page": 7.0}, True),
        ({"page": "7"}, False),
        ({"draft": False}, True),
        ({"draft": 0}, False),
        ({"page": True}, False),
        ({"note": None}, True),
        ({"absent": None}, False),
        ({"lang": {"ne": "de"}}, True),
        ({"absent": {"ne": "de"}}, True),
        ({"lang": {"ne": "en"}}, False),
        ({"page": {"ne": "7"}}, True),
        ({"lang": {"in": ["de", "en"]}}, True),
        ({"lang": {"in": []}}, False),
        ({"page": {"in": ["7", True]}}, False),
        ({"absent": {"in": [None]}}, False),
        ({"page": {"gt": 6.5}}, True),
        ({"page": {"gt": 7}}, False),
        ({"page": {"gte": 7, "lte": 7}}, True),
        ({"page": {"lt": 7}}, False),
        ({"page": {"gt": "6"}}, False),
        ({"draft": {"lt": 1}}, False),
        ({"lang": {"gt": "da", "lt": "fr"}}, True),
        ({"absent": {"gt": 0}}, False),
        ({"tags": {"ne": "a"}}, True),
        ({"any": [{"lang": "de"}, {"page": 7}]}, True),
        ({"any": []}, False),
        ({"all": [{"lang": "en"}, {"page": 8}]}, False),
        ({"all": []}, True),
        ({"not": {"lang": "de"}}, True),
        ({"not": {"absent": 1}}, True),
        ({"not": {}}, False),
        ({"lang": "en", "any": [{"page": 1}, {"not": {"draft": True}}]}, True),
    ],
)
def test_a_filter_matches_what_it_says(spec: object, expected: bool) -> None:
    assert matches(parse_filter(spec), CHUNK) is expected


SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "b"])
RANGES = st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "b"])
KEYS = st.sampled_from(["x", "y"])
LEAVES: st.SearchStrategy[dict[str, Any]] = (
    st.dictionaries(KEYS, SCALARS)
    | st.dictionaries(KEYS, st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), RANGES, min_size=1))
    | st.dictionaries(KEYS, st.fixed_dictionaries({"in": st.lists(SCALARS, max_size=3)}))
    | st.dictionaries(KEYS, st.fixed_dictionaries({"ne": SCALARS}))
)
SPECS = st.recursive(
    LEAVES,
    lambda inner: (
        st.fixed_dictionaries({"any": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"all": st.lists(inner, max_size=3)})
        | st.fixed_dictionaries({"not": inner})
    ),
    max_leaves=6,
)
METADATA = st.dictionaries(KEYS, SCALARS)


@given(SPECS, METADATA)
def test_not_is_the_opposite(spec: dict[str, Any], metadata: dict[str, Json]) -> None:
    assert matches(parse_filter({"not": spec}), metadata) is not matches(parse_filter(spec), metadata)


@given(st.lists(SPECS, max_size=3), METADATA)
def test_all_and_any_are_those_of_python(specs: list[dict[str, Any]], metadata: dict[str, Json]) -> None:
    each = [matches(parse_filter(spec), metadata) for spec in specs]
    assert matches(parse_filter({"all": specs}), metadata) is all(each)
    assert matches(parse_filter({"any": specs}), metadata) is any(each)


@pytest.mark.parametrize("limit", [0, -1, MAX_LIMIT + 1])
def test_a_query_has_a_bound(limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"limit is {limit}; expected 1 to {MAX_LIMIT}"):
        SearchQuery(tenant="acme", namespace="hr", limit=limit)
    assert SearchQuery(tenant="acme", namespace="hr", limit=MAX_LIMIT).limit == MAX_LIMIT
