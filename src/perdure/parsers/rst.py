"""reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from perdure.parsers.outline import OutlineParser
from perdure.parsers.sections import Heading

_ADORNMENT: Final = re.compile(r"([!-/:-@[-`{-~])\1*[ \t]*")
_LONGEST: Final = 1000  # characters of a title: the patterns below would take long on a line of megabytes
# Lines that begin something else, so that a line of dashes below does not make them titles.
_NO_TITLE: Final = re.compile(
    r"\s"  # a quote or the body of a directive
    r"|[-+*•‣⁃](\s|$)"  # a list
    r"|:[^:\s][^:]*:(\s|$)"  # a field
    r"|\|(\s|$)"  # a line block
    r"|>>>(\s|$)"  # a doctest
    r"|(\.\.|__)(\s|$)"  # explicit markup
)
_MARKUP: Final = (
    (re.compile(r":[\w.+:-]+:`([^`]+)`"), r"`\1`"),  # :role:`text`
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}"), r"\1"),  # `text <target>`_
    (re.compile(r"(``|`|\*\*|\*)(\S(?:.*?\S)?)\1_{0,2}"), r"\2"),  # ``code``, `text`_, **strong**, *emphasis*
    (re.compile(r"\\(.)"), r"\1"),
)


class RstParser(OutlineParser):
    """Finds section titles by the rules of docutils, without docutils, which reads 0.6 MB/s: slower than the
    model embeds. The tests hold it to what docutils finds.
    """

    name = "rst-1"
    suffixes = frozenset({".rst", ".rest"})
    media_types = frozenset({"text/x-rst", "text/prs.fallenstein.rst"})

    def headings(self, text: str) -> Iterator[Heading]:
        """Find titles with a line of punctuation below, or above and below; levels are in order of appearance."""
        lines = text.split("\n")
        starts = _starts(lines)
        adorned = [bool(_ADORNMENT.fullmatch(line)) for line in lines] + [False]
        styles = list[tuple[str, bool]]()
        index, fresh = 0, True  # fresh: a paragraph may begin here
        while index < len(lines):
            likely = fresh and (adorned[index] or adorned[index + 1])
            height = _title_height(lines, index) if likely else 0
            if not height:
                fresh = _ends_block(lines[index]) or (fresh and adorned[index])
                index += 1
                continue
            style = (lines[index + height - 1][0], height == 3)
            if style not in styles:
                styles.append(style)
            yield Heading(
                start=starts[index],
                body=starts[index + height],
                level=styles.index(style) + 1,
                title=_plain(lines[index + height - 2]),
            )
            index += height


def _starts(lines: list[str]) -> list[int]:
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    starts[-1] -= 1  # the last line has no break
    return starts


def _ends_block(line: str) -> bool:
    """Whether a paragraph may begin below: after an empty line, a block that is indented, or explicit markup."""
    return not line or line.startswith((" ", "\t", ".. "))


def _title_height(lines: list[str], index: int) -> int:
    """How many lines from `index` on make a title: 3 with an overline, 2 without, 0 where there is none."""
    line, below, last = (lines[i].rstrip() if i < len(lines) else "" for i in range(index, index + 3))
    if max(len(line), len(below)) > _LONGEST:
        return 0
    if _ADORNMENT.fullmatch(line):
        return 3 if below and line == last and _covers(last, below.strip()) else 0
    if _NO_TITLE.match(line) or not line or not _ADORNMENT.fullmatch(below):
        return 0
    return 2 if _covers(below, line) else 0


def _covers(adornment: str, title: str) -> bool:
    """Whether the line is long enough: as the title, or four characters (docutils then only warns)."""
    return len(adornment) >= min(4, len(title))


def _plain(source: str) -> str:
    for markup, text in _MARKUP:
        source = markup.sub(text, source)
    return " ".join(source.split())
