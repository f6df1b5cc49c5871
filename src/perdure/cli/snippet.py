"""The part of a passage that a reader wants to see first, with the words of the question marked. Pure functions."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import Final

from perdure.cli.text import printable

_WORD: Final = re.compile(r"\w+")
_ENDINGS: Final = re.compile(r"(?<=\w{4})(?:ing|ed|es|s|e)$")
_RULE: Final = re.compile(r"\s*([^\w\s])\1{2,}")
# Words that say nothing about what a passage is about; marking them would only make noise.
_STOP_WORDS: Final = frozenset(
    _WORD.findall(
        "a about all an and are as at be by can could do does for from had has have how i if in into is it its may me "
        "more my no not of on one or our should so than that the their them then there these they this to was we were "
        "what when where which who why will with would you your"
    )
)


def query_words(query: str) -> re.Pattern[str] | None:
    """A pattern that finds the words of `query` in a text, in other endings too; None if there is nothing to find."""
    words = {word.casefold() for word in _WORD.findall(query)} - _STOP_WORDS
    if not words:
        return None
    stems = sorted({_stem(word) for word in words}, key=len, reverse=True)
    return re.compile(rf"\b(?:{'|'.join(stems)})\b", re.IGNORECASE)


def _stem(word: str) -> str:
    """A pattern for the word and its common endings; short words and numbers only as they stand."""
    if len(word) < 4 or not word.isalpha():
        return re.escape(word)
    return rf"{_ENDINGS.sub('', word)}(?:e|s|es|ed|d|ing|ion|ions)?"


def excerpt(text: str, words: re.Pattern[str] | None, *, columns: int, rows: int) -> list[str]:
    """At most `rows` lines of about `columns` characters: where the words stand closest together, else the beginning.

    The text's own lines are kept (it may be code), long ones are lines, empty ones and rules left out.
    """
    lines = list(_lines(text, columns))
    if len(lines) <= rows:
        return lines
    first = _densest(lines, words, rows) if words else 0
    chosen = lines[first : first + rows]
    if first > 0:
        chosen[0] = f"… {chosen[0].lstrip()}"
    if first + rows < len(lines):
        chosen[-1] = f"{chosen[-1]} …"
    return chosen


def _lines(text: str, columns: int) -> Iterator[str]:
    for line in text.splitlines():
        shown = printable(line.expandtabs(4)).rstrip()
        if shown and not _RULE.fullmatch(shown):
            indent = " " * (len(shown) - len(shown.lstrip()))
            yield from textwrap.wrap(shown, columns, subsequent_indent=indent)


def _densest(lines: list[str], words: re.Pattern[str], rows: int) -> int:
    """Where the run of `rows` lines begins that holds most different words, then most words; the first of equals."""

    def worth(first: int) -> tuple[int, int, int]:
        found = [match.casefold() for row in lines[first : first + rows] for match in words.findall(row)]
        return len(set(found)), len(found), -first

    return max(range(len(lines) - rows + 1), key=worth)


def place(heading: object, start: int, end: int) -> str:
    """Where a passage stands: its headings, if it has any, each once, and its span in characters."""
    parts = [printable(str(part)) for part in heading] if isinstance(heading, (list, tuple)) else []
    headings = " › ".join(dict.fromkeys(filter(None, parts)))
    return f"{headings} [{start:,}–{end:,}]".lstrip()
