from __future__ import annotations

import pytest

from perdure.cli.snippet import excerpt, place, query_words


def found(query: str, text: str) -> list[str]:
    words = query_words(query)
    return words.findall(text) if words else []


def test_words_are_found_in_other_endings() -> None:
    assert found("catch several exceptions", "Catching an exception; several, EXCEPTIONS caught") == [
        "Catching",
        "exception",
        "several",
        "EXCEPTIONS",
    ]


@pytest.mark.parametrize("query", ["how do I do it?", "", "?!"])
def test_words_that_mean_nothing_are_not_looked_for(query: str) -> None:
    assert query_words(query) is None


def test_a_stem_is_never_too_short() -> None:
    assert found("string", "str strings string") == ["strings", "string"]


def test_short_words_and_numbers_are_found_only_as_they_stand() -> None:
    assert found("def 42", "def defs 42 421 define") == ["def", "42"]


def test_operators_of_patterns_are_words_like_all_others() -> None:
    assert found("x.* (y|z", "x xx y z") == ["x", "y", "z"]


def test_a_short_text_is_shown_whole_in_its_own_lines() -> None:
    text = "Title\n=====\n\nif x:\n\treturn 1\n"
    assert excerpt(text, None, columns=80, rows=3) == ["Title", "if x:", "    return 1"]


def test_long_lines_are_wrapped_under_their_indent() -> None:
    assert excerpt("  one two three", None, columns=10, rows=3) == ["  one two", "  three"]


def test_of_a_long_text_the_part_with_the_words_is_shown() -> None:
    text = " ".join(["filler"] * 200 + ["the needle and the thread"] + ["filler"] * 200)
    lines = excerpt(text, query_words("needle thread"), columns=60, rows=2)
    assert len(lines) == 2
    assert lines[0].startswith("… ")
    assert lines[-1].endswith(" …")
    assert "needle" in " ".join(lines)
    assert "thread" in " ".join(lines)


def test_without_words_the_beginning_is_shown() -> None:
    lines = excerpt("first " + "x " * 500, None, columns=40, rows=2)
    assert lines[0].startswith("first")
    assert lines[-1].endswith(" …")


def test_a_text_of_nothing_to_show_gives_no_line() -> None:
    assert excerpt("\n \t\n----", None, columns=10, rows=2) == []


def test_controls_in_a_passage_do_not_reach_the_terminal() -> None:
    assert excerpt("a\x1b[31mb", None, columns=40, rows=1) == ["a\ufffd[31mb"]


def test_a_place_names_headings_once_and_the_span() -> None:
    assert place(["Guide", "Guide", "Leave"], 1200, 1300) == "Guide › Leave [1,200–1,300]"
    assert place(None, 0, 9) == "[0–9]"
