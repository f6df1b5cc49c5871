from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.errors import InvalidInput
from perdure.domain.text import cut
from perdure.ports.parser import Chunker

CHUNKER: Chunker = RecursiveChunker()


def test_strategy_names_everything_that_decides_the_cuts() -> None:
    strategy = RecursiveChunker(500, 50).strategy
    assert strategy.startswith("recursive:500:50:semantic-text-splitter-0.")
    assert strategy != CHUNKER.strategy


@pytest.mark.parametrize(("capacity", "overlap"), [(0, 0), (10, 10), (10, -1)])
def test_impossible_sizes_are_refused(capacity: int, overlap: int) -> None:
    with pytest.raises(InvalidInput, match="expected a capacity of 1 or more"):
        RecursiveChunker(capacity, overlap)


def test_short_text_is_one_piece_without_the_white_space_around_it() -> None:
    assert list(CHUNKER.split("  \n one two \n ")) == [(4, "one two")]


def test_paragraphs_are_kept_together_while_they_fit() -> None:
    text = "\n\n".join(f"{letter * 300} {letter}." for letter in "abcdef")
    pieces = [piece for _, piece in CHUNKER.split(text)]
    assert all(piece.endswith(".") for piece in pieces)
    assert len(pieces) == 2


_TEXT = st.text(alphabet=st.sampled_from("ab.é漢😀 \n\t\u00a0"), max_size=600)


@given(text=_TEXT, capacity=st.integers(1, 60), overlap=st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_pieces_lie_where_they_say_hold_text_fit_and_leave_none_out(
    text: str, capacity: int, overlap: int
) -> None:
    chunker = RecursiveChunker(capacity, min(overlap, capacity - 1))
    pieces = list(chunker.split(text))
    covered = set[int]()
    for offset, piece in pieces:
        assert text[offset : offset + len(piece)] == piece
        assert piece.strip()
        assert len(piece) <= capacity
        covered.update(range(offset, offset + len(piece)))
    assert [offset for offset, _ in pieces] == sorted(offset for offset, _ in pieces)
    assert all(text[place].isspace() for place in set(range(len(text))) - covered)


@pytest.mark.parametrize(
    "text", ["word and more. " * 70_000, "x" * 1_000_000, "😀" * 300_000, "\n" * 1_000_000 + "end"]
)
def test_megabyte_on_one_line_is_cut(text: str) -> None:
    pieces = list(CHUNKER.split(text))
    assert sum(len(piece) for _, piece in pieces) >= len(text.strip()) * 0.99
    assert max(len(piece) for _, piece in pieces) <= 1000


@given(
    text=st.text(alphabet="ab \n", max_size=60), limit=st.integers(1, 20), more=st.text("ab \n", max_size=20)
)
def test_cut_is_decided_by_the_text_up_to_the_limit(text: str, limit: int, more: str) -> None:
    end = cut(text, limit)
    assert 0 < end <= limit or (text == "" and end == 0)
    if len(text) > limit:
        assert cut(text + more, limit) == end
        assert cut(more + text, limit, start=len(more)) == len(more) + end
