"""Markdown (CommonMark)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from perdure.parsers.outline import OutlineParser
from perdure.parsers.sections import Heading

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_LONGEST: Final = 1000
"""Characters of a heading that go into its title."""

_FRONT_MATTER: Final = re.compile(
    r"\A---[ \t]*\n(?=[\w\"'-]+[ \t]*:).*?^(?:---|\.\.\.)[ \t]*$", re.DOTALL | re.MULTILINE
)


class MarkdownParser(OutlineParser):
    """Finds headings as CommonMark does (library: markdown-it-py)."""

    name = "markdown-1"
    suffixes = frozenset({".md", ".markdown", ".mkd"})
    media_types = frozenset({"text/markdown", "text/x-markdown"})

    @cached_property
    def _blocks(self) -> MarkdownIt:
        """Understands blocks only: inline markup cannot make a heading, and takes half of the time."""
        from markdown_it import MarkdownIt

        parser = MarkdownIt("commonmark")
        parser.core.ruler.disable(["inline", "text_join"])
        return parser

    @cached_property
    def _inline(self) -> MarkdownIt:
        from markdown_it import MarkdownIt

        return MarkdownIt("commonmark")

    def headings(self, text: str) -> Iterator[Heading]:
        """Find `#` and underlined headings that are not inside a list, a quote, code or HTML."""
        tokens = self._blocks.parse(_without_front_matter(text))
        starts = [0, *(found.end() for found in re.finditer("\n", text)), len(text)]
        for opening, content in pairwise(tokens):
            if opening.type == "heading_open" and opening.level == 0 and opening.map:
                first, after = opening.map
                yield Heading(
                    start=starts[first],
                    body=starts[after],
                    level=int(opening.tag[1]),
                    title=self._plain(content.content[:_LONGEST]),
                )

    def _plain(self, source: str) -> str:
        """The heading without its markup: text and code as they read, images by their description."""
        (token,) = self._inline.parseInline(source)
        words = (
            {"softbreak": " ", "html_inline": ""}.get(child.type, child.content)
            for child in token.children or ()
        )
        return " ".join("".join(words).split())


def _without_front_matter(text: str) -> str:
    """Blank out the YAML block at the top, whose closing line would make its last entry a heading."""
    found = _FRONT_MATTER.match(text)
    return "\n" * found.group().count("\n") + text[found.end() :] if found else text
