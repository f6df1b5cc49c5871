"""Limits and shares, as the stores that choose in Python heed them."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.terms import PLAIN, Limit, Slots, Terms, Turns, parse_shares


def test_shares_are_read_from_a_text() -> None:
    assert parse_shares(" acme=3, beta=1 ,") == {"acme": 3, "beta": 1}
    assert parse_shares("") == {}


@pytest.mark.parametrize(
    "text", ["acme", "acme=", "acme=0", "acme=-1", "acme=x", "a b=1", "a=1,a=2", "=3", "a=1001"]
)
def test_shares_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_shares(text)


@pytest.mark.parametrize("given", [{"total": 0}, {"per_tenant": 0}, {"total": -1}])
def test_a_limit_is_at_least_one(given: dict[str, int]) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        Limit(**given)


NAMES = st.sampled_from("abcd")


@given(
    weights=st.dictionaries(NAMES, st.integers(1, 4)),
    jobs=st.dictionaries(NAMES, st.integers(0, 40), min_size=1),
    rooms=st.lists(st.integers(1, 7), min_size=1, max_size=60),
)
def test_in_each_round_each_gets_its_share_however_claims_cut_it(
    weights: dict[str, int], jobs: dict[str, int], rooms: list[int]
) -> None:
    terms, turns = Terms(shares=weights), Turns[str]()
    left, order = Counter(jobs), list[str]()
    for room in rooms:
        last, begun = turns.last(0, terms)
        tenants = sorted(left, key=lambda tenant: (tenant < last or (tenant == last and not begun), tenant))
        lines = {tenant: [("k", tenant)] * left[tenant] for tenant in tenants}
        dealt = turns.deal(0, lines, room, terms, Slots({}, {}))
        assert len(dealt) == min(room, left.total())
        left -= Counter(dealt)
        order += dealt
    busy = {tenant: number for tenant, number in jobs.items() if left[tenant]}
    for one in busy:
        for other in busy:
            a, b = order.count(one) / terms.weight(one), order.count(other) / terms.weight(other)
            assert abs(a - b) <= 1, "of two who always have work none is more than a round ahead"


def test_what_is_full_is_passed_over() -> None:
    slots = Slots({"a": Limit(total=3, per_tenant=1)}, {("a", "acme"): 1})
    lines = {
        "acme": [("a", "no"), ("b", "acme")],
        "bolt": [("a", "bolt"), ("a", "no")],
        "core": [("a", "core")],
        "dune": [("a", "no")],
    }
    assert Turns[str]().deal(0, lines, 9, PLAIN, slots) == ["acme", "bolt", "core"]
    assert (slots.left("a"), slots.left("b") > 0, ("a", "acme") in slots.full()) == (0, True, True)
