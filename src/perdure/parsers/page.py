"""From a tree of HTML elements to the text that a reader sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from perdure.parsers.sections import Heading

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}
# fmt: off
_PARAGRAPHS: Final = frozenset(_HEADINGS) | {
    "address", "article", "blockquote", "body", "details", "dl", "fieldset", "figure", "form", "hr",
    "main", "ol", "p", "pre", "section", "table", "ul",
}
_LINES: Final = {
    "br", "caption", "center", "dd", "div", "dt", "figcaption", "header", "legend", "li", "option",
    "summary", "tbody", "tfoot", "thead", "tr",
}
_CELLS: Final = {"td", "th"}
_CONTENT: Final = {"article", "main", "section"}
_SKIPPED: Final = {
    "-comment", "aside", "audio", "button", "canvas", "footer", "head", "iframe", "nav", "noscript",
    "object", "script", "select", "style", "svg", "template", "textarea", "video",
}
# fmt: on
_SKIPPED_ROLES: Final = {"banner", "complementary", "contentinfo", "navigation", "search"}
# What Sphinx, MkDocs, DocBook and Bootstrap call their pilcrows behind headings and their bars around the content.
_SKIPPED_CLASSES: Final = {
    "breadcrumb", "breadcrumbs", "headerlink", "navbar", "navfooter", "navheader", "pagination", "related",
    "sphinxsidebar",
}  # fmt: skip
_GAPS: Final = ("", " ", " | ", "\n", "\n\n")  # what divides two texts; the wider swallows the narrower
_SPACE: Final = 1
_GAP_AROUND: Final = dict.fromkeys(_CELLS, 2) | dict.fromkeys(_LINES, 3) | dict.fromkeys(_PARAGRAPHS, 4)


class Page:
    """The text below an element: paragraphs set apart, lines kept, cells of a row divided by ``|``.

    Attributes:
        text: without white space at its ends, except that `pre` keeps its own.
        headings: in order.
    """

    def __init__(self, root: LexborNode) -> None:
        self.headings: list[Heading] = []
        self._pieces: list[str] = []
        self._length = 0
        self._gap = 0  # what will come between the text so far and the next, as an index of `_GAPS`
        self._verbatim = 0  # how many `pre` elements are open
        self._content = 0 if root.tag == "body" else 1  # how many of `_CONTENT` are open
        self._heading: tuple[int, int] | None = None  # length and pieces where the open heading begins
        self._walk(root)
        self.text = "".join(self._pieces)

    def _walk(self, root: LexborNode) -> None:
        """Visit every element, without recursion: pages may be nested deeper than Python's stack."""
        node, entered = root, list[str]()
        while True:
            if self._enter(node):
                entered.append(node.tag or "")
                if node.child is not None:
                    node = node.child
                    continue
                self._leave(entered.pop())
            while entered and node.next is None and node.parent is not None:
                node = node.parent
                self._leave(entered.pop())
            if not entered or node.next is None:
                return
            node = node.next

    def _enter(self, node: LexborNode) -> bool:
        """Take in what a node says; whether it is an element to be read."""
        tag = node.tag or ""
        if tag == "-text":
            self._say(node.text(deep=False))
            return False
        if self._skips(node, tag):
            return False
        self._widen(_GAP_AROUND.get(tag, 0))
        self._verbatim += tag == "pre"
        self._content += tag in _CONTENT
        if tag in _HEADINGS and self._heading is None:
            self._flush()
            self._heading = self._length, len(self._pieces)
        return True

    def _leave(self, tag: str) -> None:
        self._verbatim -= tag == "pre"
        self._content -= tag in _CONTENT
        if tag in _HEADINGS and self._heading is not None:
            start, piece = self._heading
            title = " ".join("".join(self._pieces[piece:]).split())
            self.headings.append(Heading(start=start, body=self._length, level=_HEADINGS[tag], title=title))
            self._heading = None
        self._widen(_GAP_AROUND.get(tag, 0))

    def _skips(self, node: LexborNode, tag: str) -> bool:
        """Whether an element is not part of the content: a site's own header is not, an article's is."""
        if tag in _SKIPPED or (tag == "header" and not self._content):
            return True
        attributes = node.attributes
        return bool(attributes) and (
            attributes.get("role") in _SKIPPED_ROLES
            or "hidden" in attributes
            or attributes.get("aria-hidden") == "true"
            or not _SKIPPED_CLASSES.isdisjoint((attributes.get("class") or "").split())
        )

    def _say(self, text: str) -> None:
        if self._verbatim:
            self._put(text)
            return
        words = text.split()
        if text[:1].isspace():
            self._widen(_SPACE)
        if words:
            self._put(" ".join(words))
            if text[-1].isspace():
                self._widen(_SPACE)

    def _put(self, text: str) -> None:
        self._flush()
        self._pieces.append(text)
        self._length += len(text)

    def _flush(self) -> None:
        """Write the gap, but none before the first text, and no space at the beginning of a line."""
        if self._gap and self._length and not (self._gap == _SPACE and self._pieces[-1].endswith("\n")):
            self._pieces.append(_GAPS[self._gap])
            self._length += len(_GAPS[self._gap])
        self._gap = 0

    def _widen(self, gap: int) -> None:
        self._gap = max(self._gap, gap)
