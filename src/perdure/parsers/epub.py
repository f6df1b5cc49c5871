"""Books (.epub)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from posixpath import dirname, join, normpath
from typing import BinaryIO, Final
from urllib.parse import unquote
from zipfile import ZipFile

from perdure.domain.errors import DocumentEmpty, DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.archive import attribute, local, open_archive, read_entry, read_tree
from perdure.parsers.html import HtmlParser
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

_PAGES: Final = {"application/xhtml+xml", "text/html"}
_ENCRYPTED: Final = "META-INF/encryption.xml"


class EpubParser:
    """Reads the pages of a book in their order, each as HTML; the table of contents is left out."""

    name = "epub-1"
    suffixes = frozenset({".epub"})
    media_types = frozenset({"application/epub+zip"})
    signature = b"PK\x03\x04"
    libraries = HtmlParser.libraries

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the sections between headings, with `heading` and the book's `title`."""
        return lay_out(_parts(open_archive(stream, "META-INF/container.xml")))


def _parts(archive: ZipFile) -> Iterator[tuple[str, dict[str, Json]]]:
    title, pages = _contents(archive)
    common: dict[str, Json] = {"title": title} if title else {}
    locked = _locked(archive)
    for name in pages:
        if name in locked:
            raise DocumentUnreadable(
                "it is locked (DRM); only the program that it was bought for can read it"
            )
        with suppress(DocumentEmpty):  # a cover, or a page with nothing but a picture
            for section in HtmlParser().parse(BytesIO(read_entry(archive, name)), None):
                yield section.text, section.metadata | common


def _contents(archive: ZipFile) -> tuple[str, list[str]]:
    """The title, and the names of the pages in their order."""
    container = read_tree(archive, "META-INF/container.xml")
    package = next(
        (path for element in container.iter() if (path := element.get("full-path"))), "content.opf"
    )
    title, pages, order = "", dict[str, str](), list[str]()
    for element in read_tree(archive, package).iter():
        match local(element.tag):
            case "title" if not title:
                title = " ".join((element.text or "").split())
            case "item" if (
                element.get("media-type") in _PAGES and "nav" not in element.get("properties", "").split()
            ):
                path = join(dirname(package), unquote(element.get("href", "")))
                pages[element.get("id", "")] = normpath(path)
            case "itemref":
                order.append(element.get("idref", ""))
    return title, [pages[item] for item in order if item in pages]


def _locked(archive: ZipFile) -> set[str]:
    """The entries that are encrypted."""
    if _ENCRYPTED not in archive.namelist():
        return set()
    references = (
        element
        for element in read_tree(archive, _ENCRYPTED).iter()
        if local(element.tag) == "CipherReference"
    )
    return {unquote(attribute(element, "URI") or "") for element in references}
