"""HTML: what a page says, without what surrounds it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING, BinaryIO, Final

from perdure.domain.errors import DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.decoding import decode, is_encoding
from perdure.parsers.page import Page
from perdure.parsers.sections import no_text, outline_sections
from perdure.ports.parser import Section

if TYPE_CHECKING:
    from selectolax.lexbor import LexborHTMLParser, LexborNode

LIMIT: Final = 16_000_000
"""Bytes of the largest page that is read: its tree takes about eleven times as much memory."""

DEPTH: Final = 10_000
"""Elements within elements that are read: the engine needs quadratic time beyond (20 s for 80,000)."""

_HEAD: Final = 1024  # where the HTML standard looks for the encoding
_CHARSET: Final = re.compile(
    rb"""(?:<meta[^>]*?charset|<\?xml[^>]*?encoding)\s*=\s*["']?\s*([\w.:-]+)""", re.IGNORECASE
)
# Pages that call themselves Latin-1 are Windows-1252 (WHATWG Encoding Standard §4.2), and a `meta` element that
# could be read at all is not in UTF-16.
_REALLY: Final = {
    "iso-8859-1": "cp1252",
    "latin1": "cp1252",
    "us-ascii": "cp1252",
    "ascii": "cp1252",
    "utf-16": "utf-8",
}
_TAG: Final = re.compile("<(/?)([a-zA-Z][a-zA-Z0-9]*)")
# Elements that hold nothing, or that the next of their kind closes: however many there are, they do not nest.
# fmt: off
_FLAT: Final = {
    "a", "area", "base", "br", "col", "colgroup", "dd", "dt", "embed", "hr", "img", "input", "li", "link",
    "meta", "option", "p", "param", "source", "tbody", "td", "tfoot", "th", "thead", "tr", "track", "wbr",
}
# fmt: on


class HtmlParser:
    """Reads the main part of a page (library: selectolax, the Lexbor engine)."""

    name = "html-2"
    suffixes = frozenset({".html", ".htm", ".xhtml"})
    media_types = frozenset({"text/html", "application/xhtml+xml"})
    signature = b""
    libraries = ("selectolax.lexbor",)

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the sections between headings, with the page's title in the metadata.

        Raises:
            DocumentUnreadable: also for a page larger than `LIMIT`, or nested deeper than `DEPTH`.
        """
        data = stream.read(LIMIT + 1)
        if len(data) > LIMIT:
            raise DocumentUnreadable(
                f"the HTML is larger than {LIMIT // 1_000_000} MB; split it, or convert it to text first"
            )
        text = "".join(decode(BytesIO(data), encoding or _declared(data[:_HEAD])))
        _refuse_deep(text)
        page, title = _read(text)
        common: dict[str, Json] = {"title": title} if title else {}
        return outline_sections(page.text, page.headings, common)


def _declared(head: bytes) -> str | None:
    """The encoding that the page names; None where it names none that is known, or bears a byte order mark."""
    found = _CHARSET.search(head)
    if found is None or head.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        return None
    name = found[1].decode().lower()
    return _REALLY.get(name, name) if is_encoding(name) else None


def _refuse_deep(text: str) -> None:
    depth = 0
    for tag in _TAG.finditer(text):
        if tag[2].lower() not in _FLAT:
            depth += -1 if tag[1] else 1
            if depth > DEPTH:
                raise DocumentUnreadable(
                    f"its elements are nested more than {DEPTH:,} deep near character {tag.start():,}; "
                    "mend the page, or convert it to text first"
                )


def _read(text: str) -> tuple[Page, str]:
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(text)
    title = tree.css_first("title")
    for root in _roots(tree):
        page = Page(root)
        if page.text:
            return page, " ".join(title.text().split()) if title else ""
    raise no_text()


def _roots(tree: LexborHTMLParser) -> Iterator[LexborNode]:
    """Where the content may be, the most telling place first."""
    yield from tree.css("main, [role=main]")[:1]
    articles = tree.css("article")
    if len(articles) == 1:
        yield from articles
    if tree.body:
        yield tree.body
