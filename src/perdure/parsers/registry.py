"""Which parser reads which file."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import cache
from os.path import splitext
from typing import Final

from perdure.domain.errors import UnsupportedFormat
from perdure.parsers.converters import converters
from perdure.parsers.decoding import looks_binary
from perdure.parsers.sandbox import Limits, Sandboxed
from perdure.ports.parser import Parser

HEAD: Final = 4096
"""How many bytes from the beginning of a file decide where its name does not."""

_UNICODE_MARKS: Final = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
_JUNK: Final = 1024  # bytes that may stand before a signature, as PDF readers have it
_KNOWN: Final = {
    b"%PDF-": "a PDF",
    b"PK\x03\x04": "a ZIP archive (as .docx, .xlsx, .pptx and .epub are)",
    b"\xd0\xcf\x11\xe0": "an Office file that is old or encrypted; save it in today's format, without a password",
    b"{\\rtf": "RTF; save it as .docx",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x1f\x8b": "compressed by gzip; unpack it",
}
_SIGNATURES: Final = tuple(_KNOWN)
# What only a file of this kind has among its first bytes.
_TELLING: Final = (
    (re.compile(rb"%PDF-"), ".pdf"),
    (re.compile(rb"PK\x03\x04.{26}mimetypeapplication/epub\+zip", re.DOTALL), ".epub"),
    (re.compile(rb"PK\x03\x04.*word/", re.DOTALL), ".docx"),
    (re.compile(rb"PK\x03\x04.*ppt/", re.DOTALL), ".pptx"),
    (re.compile(rb"PK\x03\x04.*xl/", re.DOTALL), ".xlsx"),
    (re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype html|html[\s>])", re.IGNORECASE), ".html"),
)


class Parsers:
    """Chooses by media type, then by the end of the file's name, then by looking inside.

    Args:
        parsers: of two that read the same format, the later one is chosen.
        fallback: reads what looks like text and has no parser of its own.
    """

    def __init__(self, parsers: Iterable[Parser], fallback: Parser) -> None:
        self._fallback = fallback
        self._by_media_type: dict[str, Parser] = {}
        self._by_suffix: dict[str, Parser] = {}
        for parser in parsers:
            self._by_media_type |= dict.fromkeys(parser.media_types, parser)
            self._by_suffix |= dict.fromkeys(parser.suffixes, parser)

    @property
    def suffixes(self) -> frozenset[str]:
        """File name endings that have a parser of their own."""
        return frozenset(self._by_suffix)

    def choose(self, name: str, media_type: str | None, head: bytes) -> Parser:
        """Return the parser for a file.

        Args:
            name: the file's name, with or without folders.
            media_type: as its sender gave it; one that is not known is passed over.
            head: the file's first bytes, `HEAD` or fewer.

        Raises:
            UnsupportedFormat: no parser is known for it, and it is not text; or it is not what its name says.
        """
        essence = (media_type or "").partition(";")[0].strip().lower()
        suffix = splitext(name)[1].lower()  # noqa: PTH122 - a path takes ten times as long
        known = [
            parser
            for parser in (self._by_media_type.get(essence), self._by_suffix.get(suffix))
            if parser is not None
        ]
        for parser in known:
            if _fits(parser, head):
                return parser
        told = next((ending for pattern, ending in _TELLING if pattern.match(head)), "")
        if known:
            cure = f"; name it {told} if that is what it is" if told in self._by_suffix else ""
            raise UnsupportedFormat(
                f"it should be {suffix if suffix in known[-1].suffixes else essence}, but the content is {_content(head)}{cure}"
            )
        if told in self._by_suffix:
            return self._by_suffix[told]
        if head.startswith(_UNICODE_MARKS) or not (looks_binary(head) or head.startswith(_SIGNATURES)):
            return self._fallback
        raise UnsupportedFormat(
            f"{suffix or 'this'} is not a format that Perdure reads, and the content is {_content(head)}; "
            f"convert it to text first (it reads {', '.join(sorted(self._by_suffix))} and any plain text)"
        )


def _fits(parser: Parser, head: bytes) -> bool:
    """Whether the content can be what the parser reads."""
    if parser.signature:
        return parser.signature in head[:_JUNK]
    return not head.startswith(_SIGNATURES)


def _content(head: bytes) -> str:
    found = next((what for signature, what in _KNOWN.items() if head.startswith(signature)), None)
    return found or ("not text" if looks_binary(head) else "text")


def default_parsers(limits: Limits | None = None, converter: str = "") -> Parsers:
    """Every parser that Perdure brings; the libraries behind them are imported when they are used.

    What native or complex code reads is read in a process of its own. Plain text and its relatives are read here:
    pure Python in linear time, which takes less than the process would.

    Args:
        limits: of what one document may take in its process.
        converter: a library that is preferred for what it reads: ``markitdown``, ``docling``, or none.

    Raises:
        InvalidInput: no such converter is known.
    """
    text, here, apart = _parsers()
    apart += converters(converter)
    return Parsers([*here, *(Sandboxed(parser, limits or Limits()) for parser in apart)], fallback=text)


@cache
def parsers_here() -> Parsers:
    """The same, all in this process, for what lies inside a document that is read in a process of its own."""
    text, here, apart = _parsers()
    return Parsers([*here, *apart], fallback=text)


def _parsers() -> tuple[Parser, list[Parser], list[Parser]]:
    """What reads plain text, and all parsers: those that may work in this process, and those that may not."""
    from perdure.parsers.docx import DocxParser
    from perdure.parsers.epub import EpubParser
    from perdure.parsers.html import HtmlParser
    from perdure.parsers.mail import MailParser
    from perdure.parsers.markdown import MarkdownParser
    from perdure.parsers.pdf import PdfParser
    from perdure.parsers.pptx import PptxParser
    from perdure.parsers.rst import RstParser
    from perdure.parsers.spreadsheet import SpreadsheetParser, XlsParser
    from perdure.parsers.subtitles import SubtitleParser
    from perdure.parsers.table import TableParser
    from perdure.parsers.text import LANGUAGES, CodeParser, TextParser

    text = TextParser()
    code: list[Parser] = [CodeParser(language, suffixes) for language, suffixes in LANGUAGES.items()]
    office: list[Parser] = [DocxParser(), PptxParser(), SpreadsheetParser(), XlsParser()]
    return (
        text,
        [text, MarkdownParser(), RstParser(), TableParser(), SubtitleParser(), *code],
        [HtmlParser(), PdfParser(), EpubParser(), MailParser(), *office],
    )
