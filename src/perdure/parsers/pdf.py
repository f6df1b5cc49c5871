"""PDF."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO, Final

from perdure.domain.errors import DocumentUnreadable
from perdure.domain.record import Json
from perdure.parsers.libraries import library
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

if TYPE_CHECKING:
    from pypdfium2 import PdfDocument

_PASSWORD: Final = 4  # FPDF_ERR_PASSWORD
_BOOKMARKS: Final = 10_000
"""Of one document: nobody reads more, and a hostile file may hold any number."""
_HYPHEN: Final = re.compile("[\x02\ufffe](?:\r?\n)?")  # at the end of a line, inside a word


class PdfParser:
    """Reads page by page (library: pypdfium2, the engine of Chrome); bookmarks give the heading path."""

    name = "pdf-1"
    suffixes = frozenset({".pdf"})
    media_types = frozenset({"application/pdf", "application/x-pdf"})
    signature = b"%PDF-"
    libraries = ("pypdfium2",)

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield a section per page, with `page` (from 1), `heading` and `title`."""
        pdfium = library("pypdfium2")
        try:
            pdf = pdfium.PdfDocument(stream)
        except pdfium.PdfiumError as error:
            if error.err_code == _PASSWORD:
                raise DocumentUnreadable(
                    "it is encrypted; save it without a password, and ingest that"
                ) from None
            raise
        return lay_out(_pages(pdf), f" on any of its {len(pdf):,} pages (a scan? run OCR first: ocrmypdf)")


def _pages(pdf: PdfDocument) -> Iterator[tuple[str, dict[str, Json]]]:
    title = " ".join(pdf.get_metadata_value("Title").split())
    common: dict[str, Json] = {"title": title} if title else {}
    paths = _heading_paths(pdf)
    path = list[Json]()
    for index in range(len(pdf)):
        page = pdf[index]
        text_page = page.get_textpage()
        text = _HYPHEN.sub("", text_page.get_text_bounded()).replace("\r\n", "\n")
        text_page.close()
        page.close()
        path = paths.get(index, path)
        yield text, {**common, "page": index + 1, **({"heading": path} if path else {})}


def _heading_paths(pdf: PdfDocument) -> dict[int, list[Json]]:
    """For each page on which bookmarks point: the path of the first, beneath which most of the page stands."""
    path, found = list[Json](), list[tuple[int, list[Json]]]()
    for _, bookmark in zip(range(_BOOKMARKS), pdf.get_toc(), strict=False):
        path = [*path[: bookmark.level], " ".join(bookmark.get_title().split())]
        target = bookmark.get_dest()
        if target is not None and (page := target.get_index()) is not None:
            found.append((page, path))
    return {
        page: next(paths)[1]
        for page, paths in groupby(sorted(found, key=lambda one: one[0]), lambda one: one[0])
    }
