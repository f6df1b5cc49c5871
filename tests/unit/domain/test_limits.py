"""Limits: no window holds more, wherever it begins."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.errors import InvalidInput
from perdure.domain.limits import SLICES, Book, Cost, Limit, Move, parse_limits

MINUTE = Limit(what="requests", count=60)
START = 1_800_000_000.0


def test_limits_are_read() -> None:
    found = parse_limits("openai=600rpm, 1000000tpm; ollama=5rps, 9rp10s;", "X")
    assert found == {
        "openai": (Limit(what="requests", count=600), Limit(what="tokens", count=1_000_000)),
        "ollama": (
            Limit(what="requests", count=5, seconds=1.0),
            Limit(what="requests", count=9, seconds=10.0),
        ),
    }
    assert parse_limits("", "X") == {}
    assert str(found["openai"][0]) == "600 requests in 60 s"


@pytest.mark.parametrize("text", ["openai", "openai=", "=600rpm", "openai=600", "openai=-1rpm", "a=0rpm"])
def test_what_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        parse_limits(text, "X")


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 20), st.integers(1, 50), st.integers(0, 400)), min_size=20, max_size=200
    )
)
def test_no_window_holds_more(steps: list[tuple[float, int, int]]) -> None:
    limits = (MINUTE, Limit(what="tokens", count=9_000))
    book, made = Book(), list[tuple[float, int, int]]()
    times = accumulate((step[0] for step in steps), initial=START)
    for now, (_, most, tokens) in zip(times, steps, strict=False):
        calls = book.calls(limits, Cost(1, tokens), most, now)
        assert calls <= most
        assert bool(calls) is (book.wait(limits, Cost(1, tokens), now) == 0)
        book = book.noted(limits, [Move(now, Cost(calls, calls * tokens))], now, "")
        made += [(now, calls, calls * tokens)] * bool(calls)
    for begin, _, _ in made:
        within = [use for use in made if begin <= use[0] <= begin + 60]
        assert sum(use[1] for use in within) <= 60
        assert sum(use[2] for use in within) <= 9_000


def test_who_always_asks_gets_nearly_all() -> None:
    book, now, calls = Book(), START, 0
    while now < START + 1_800:
        if book.calls([MINUTE], Cost(1, 0), 1, now):
            book = book.noted([MINUTE], [Move(now, Cost(1, 0))], now, "")
            calls += 1
        else:
            wait = book.wait([MINUTE], Cost(1, 0), now)
            assert 0 < wait <= 12  # a burst leaves nobody waiting for the rest of a minute
            now += wait + 0.001
    assert calls >= 0.97 * 60 * 30
    assert len(book.used[MINUTE.key]) <= 60


def test_what_was_given_back_can_be_used() -> None:
    book = Book().noted([MINUTE], [Move(START, Cost(8, 0))], START, "")
    assert book.calls([MINUTE], Cost(1, 0), 5, START) == 0
    book = book.noted([MINUTE], [Move(START, Cost(-4, 0))], START + 1, "")
    assert book.calls([MINUTE], Cost(1, 0), 5, START + 1) == 4


def test_call_that_is_larger_than_the_limit_is_made_alone() -> None:
    limits = [Limit(what="tokens", count=100)]
    book = Book().noted(limits, [Move(START, Cost(1, 1))], START, "")
    assert book.calls(limits, Cost(1, 500), 5, START) == 0
    later = START + book.wait(limits, Cost(1, 500), START) + 0.001
    assert 60 < later - START < 62
    assert book.calls(limits, Cost(1, 500), 5, later) == 1


def test_a_clock_that_is_read_late_follows_the_others_and_one_far_ahead_is_not_believed() -> None:
    book = Book().noted([MINUTE], [Move(START + 2, Cost(1, 0))], START + 2, "")
    width = MINUTE.seconds / SLICES
    assert START + 2 - width < book.time([MINUTE], START) <= START + 2
    assert book.time([MINUTE], START + 5) == START + 5
    assert book.time([MINUTE], START - 3_600) == START - 3_600
    assert book.calls([MINUTE], Cost(1, 0), 1, START - 3_600) == 1
