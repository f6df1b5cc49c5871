"""Where a long text is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.domain.text import cut

TEXTS = st.text("ab \n", max_size=80)
LIMITS = st.integers(1, 40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("short", "short"),
        ("exactly ten", "exactly ten"),
        ("one two three four", "one two "),
        ("one two\nthree four", "one two\n"),
        ("one tw\n\na\nb c", "one tw\n\n"),
        ("a b cdefghijklmnop", "a b cdefghi"),
        ("unbrokenletters", "unbrokenlet"),
    ],
)
def test_a_piece_ends_at_the_best_place_of_its_second_half(text: str, expected: str) -> None:
    assert text[: cut(text, 11)] == expected


@given(TEXTS, LIMITS)
def test_pieces_are_never_empty_never_too_long_and_together_the_text(text: str, limit: int) -> None:
    pieces, start = [], 0
    while start < len(text):
        end = cut(text, limit, start)
        pieces.append(text[start:end])
        start = end
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= limit for piece in pieces)


@given(TEXTS, TEXTS, LIMITS)
def test_a_cut_does_not_depend_on_what_lies_before_or_far_behind(text: str, other: str, limit: int) -> None:
    assert cut(other + text, limit, len(other)) - len(other) == cut(text, limit)
    if len(text) > limit:
        assert cut(text[: limit + 1] + other, limit) == cut(text, limit)
