"""Other people's converters to Markdown, for those who prefer what they make of PDF and Office documents."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from typing import BinaryIO, ClassVar, Final

from perdure.domain.errors import InvalidInput
from perdure.parsers.archive import open_archive
from perdure.parsers.libraries import library
from perdure.parsers.markdown import MarkdownParser
from perdure.ports.parser import Parser, Section

_ZIP, _OLE, _PDF = b"PK\x03\x04", b"\xd0\xcf\x11\xe0", b"%PDF-"


class _Converter:
    """Reads a document as the Markdown that a library makes of it, whose headings become the heading path."""

    package: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    media_types: ClassVar[frozenset[str]] = frozenset()
    signature: ClassVar[bytes]

    @property
    def name(self) -> str:
        """For example ``markitdown-0.1.9``: another release may make other text."""
        try:
            return f"{self.package}-{version(self.package)}"
        except PackageNotFoundError:
            return self.package

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the sections between headings, with `heading`."""
        if self.signature == _ZIP:
            open_archive(stream, "")
            stream.seek(0)
        return MarkdownParser().parse(BytesIO(self.markdown(stream).encode(errors="replace")), "utf-8")

    def markdown(self, stream: BinaryIO) -> str:
        """Convert."""
        raise NotImplementedError


class _Markitdown(_Converter):
    package = "markitdown"
    libraries = ("markitdown",)

    def markdown(self, stream: BinaryIO) -> str:
        """Convert; the library finds out by itself what it is."""
        converter = library("markitdown", "markitdown").MarkItDown(enable_plugins=False)
        return str(converter.convert_stream(stream).markdown)


class MarkitdownOffice(_Markitdown):
    """Word, PowerPoint and Excel (library: markitdown)."""

    suffixes = frozenset({".docx", ".pptx", ".xlsx"})
    signature = _ZIP


class MarkitdownPdf(_Markitdown):
    """PDF (library: markitdown, with pdfminer)."""

    suffixes = frozenset({".pdf"})
    signature = _PDF


class MarkitdownOld(_Markitdown):
    """Outlook messages and old Excel (library: markitdown)."""

    suffixes = frozenset({".msg", ".xls"})
    signature = _OLE


class _Docling(_Converter):
    package = "docling"
    libraries = ("docling",)

    def markdown(self, stream: BinaryIO) -> str:
        """Convert; its models must be on this machine already (``docling-tools models download``)."""
        from_stream = library("docling.datamodel.base_models", "docling").DocumentStream
        converter = library("docling.document_converter", "docling").DocumentConverter()
        (suffix,) = self.suffixes
        source = from_stream(name=f"document{suffix}", stream=BytesIO(stream.read()))
        return str(converter.convert(source).document.export_to_markdown())


class DoclingPdf(_Docling):
    """PDF, with the layout and the tables that models find in it (library: docling)."""

    suffixes = frozenset({".pdf"})
    signature = _PDF


class DoclingWord(_Docling):
    """Word (library: docling)."""

    suffixes = frozenset({".docx"})
    signature = _ZIP


class DoclingSlides(_Docling):
    """PowerPoint (library: docling)."""

    suffixes = frozenset({".pptx"})
    signature = _ZIP


_CONVERTERS: Final[dict[str, tuple[type[_Converter], ...]]] = {
    "": (),
    "markitdown": (MarkitdownOffice, MarkitdownPdf, MarkitdownOld),
    "docling": (DoclingPdf, DoclingWord, DoclingSlides),
}


def converters(name: str) -> list[Parser]:
    """The parsers of a library; none for an empty name.

    Raises:
        InvalidInput: none is known by this name.
    """
    if name not in _CONVERTERS:
        raise InvalidInput(f"PERDURE_PARSERS is {name!r}; expected markitdown, docling, or nothing")
    return [kind() for kind in _CONVERTERS[name]]
