"""Each format with a real text in it, the whole way through choosing and the process of its own."""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path

import pytest

from perdure.domain.errors import DocumentError, UnsupportedFormat
from perdure.parsers import default_parsers
from perdure.parsers.registry import HEAD
from perdure.parsers.sandbox import Sandboxed
from perdure.ports.parser import Section
from tests.unit.parsers import made

PARSERS = default_parsers()
SAMPLES = made.samples()
PAGE = Path(__file__).parents[3] / "docs" / "reference" / "formats.md"

KEPT = {
    "text-1": set[str](),
    "markdown-1": {"heading"},
    "rst-1": {"heading"},
    "html-2": {"heading", "title"},
    "pdf-1": {"heading", "page", "title"},
    "docx-1": {"heading"},
    "pptx-1": {"heading", "slide"},
    "spreadsheet-1": {"row", "sheet"},
    "epub-1": {"heading", "title"},
    "mail-1": {"attachment", "attachments", "date", "from", "subject"},
    "table-1": {"row"},
    "subtitles-1": {"time", "until"},
    "code-1": {"language"},
}
"""Parser → what it keeps as metadata beside the text and its span."""


def read(name: str, data: bytes, media_type: str | None = None) -> list[Section]:
    parser = PARSERS.choose(name, media_type, data[:HEAD])
    return list(parser.parse(io.BytesIO(data), None))


@pytest.mark.parametrize("parser", SAMPLES)
def test_every_word_and_what_the_format_knows_of_its_place(parser: str) -> None:
    name, data = SAMPLES[parser]
    assert PARSERS.choose(name, None, data[:HEAD]).name == parser
    sections = read(name, data)
    found = " ".join(section.text for section in sections).split()
    # A subtitle has no hyphen at the end of a line, and a PDF joins what one divides.
    missing = {*made.TOPICS["with"].split()} - {*found, "|"}
    assert not missing
    kept = {key for section in sections for key in section.metadata}
    assert kept >= KEPT[parser]
    assert kept - KEPT[parser] <= ({"heading", "page", "title"} if parser == "mail-1" else set())


@pytest.mark.parametrize("parser", SAMPLES)
def test_spans_rise_and_do_not_overlap(parser: str) -> None:
    sections = read(*SAMPLES[parser])
    ends = [0, *(section.start + len(section.text) for section in sections)]
    assert all(section.start >= end for section, end in zip(sections, ends, strict=False))


@pytest.mark.parametrize("parser", SAMPLES)
def test_same_bytes_give_the_same_sections(parser: str) -> None:
    assert read(*SAMPLES[parser]) == read(*SAMPLES[parser])


def test_the_page_on_formats_says_what_is_read_and_kept() -> None:
    text, _, _ = PAGE.read_text().partition("## Other converters")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    told = {frozenset(re.findall(r"`(\.\w+)`", row[1])): row for row in rows[1:]}
    assert {*re.findall(r"`(\.\w+)`", text)} == PARSERS.suffixes
    for parser, (name, data) in SAMPLES.items():
        chosen = PARSERS.choose(name, None, data[:HEAD])
        code = "see below" if parser == "code-1" else None
        row = next(
            row for suffixes, row in told.items() if chosen.suffixes <= suffixes or row[1].strip() == code
        )
        assert set(re.findall(r"`(\w+)`", row[2])) == KEPT[parser]
        assert ("its own" in row[5]) == isinstance(chosen, Sandboxed)


# --- names and content --------------------------------------------------------------------------

BINARY = [parser for parser, (_, data) in SAMPLES.items() if data[:4] in {b"%PDF", b"PK\x03\x04"}]


@pytest.mark.parametrize("parser", BINARY)
def test_a_name_that_lies_is_refused_with_what_the_content_is(parser: str) -> None:
    _, data = SAMPLES[parser]
    wrong = "a.docx" if parser == "pdf-1" else "a.pdf"
    with pytest.raises(UnsupportedFormat, match=r"it should be .*, but the content is a (PDF|ZIP archive)"):
        read(wrong, data)
    with pytest.raises(UnsupportedFormat, match="the content is a"):
        read("a.txt", data)


def test_text_in_the_name_of_another_format_is_refused() -> None:
    with pytest.raises(UnsupportedFormat, match=r"it should be \.pdf, but the content is text"):
        read("a.pdf", b"<html><body>Log in first.</body></html>")
    with pytest.raises(UnsupportedFormat, match=r"content is a PDF; name it \.pdf if that is what it is"):
        read("a.html", SAMPLES["pdf-1"][1])


@pytest.mark.parametrize("parser", BINARY)
def test_content_decides_where_the_name_does_not(parser: str) -> None:
    _, data = SAMPLES[parser]
    assert PARSERS.choose("upload", "application/octet-stream", data[:HEAD]).name == parser


def test_page_without_a_name_is_html() -> None:
    assert PARSERS.choose("", None, b"\n<!DOCTYPE html><html>").name == "html-2"


def test_the_media_type_yields_to_the_name_where_the_content_says_so() -> None:
    assert PARSERS.choose("a.pdf", "text/html", SAMPLES["pdf-1"][1][:HEAD]).name == "pdf-1"


@pytest.mark.parametrize("parser", BINARY)
def test_one_archive_in_the_name_of_another_is_a_clear_error(parser: str) -> None:
    _, data = SAMPLES[parser]
    for name in {".docx", ".pptx", ".xlsx", ".epub"} - {Path(SAMPLES[parser][0]).suffix}:
        with pytest.raises(DocumentError, match=r"not what its name says|should be"):
            read("a" + name, data)


def test_old_or_encrypted_office_file_says_so() -> None:
    with pytest.raises(
        UnsupportedFormat, match="old or encrypted; save it in today's format, without a password"
    ):
        read("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(1000))


@pytest.mark.parametrize("parser", SAMPLES)
@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.97])
def test_truncated_document_is_an_error_or_its_beginning(parser: str, kept: float) -> None:
    name, data = SAMPLES[parser]
    cut = data[: int(kept if kept > 1 else len(data) * kept)]
    if parser in BINARY:
        with pytest.raises(DocumentError):
            read(name, cut)
        return
    with suppress(DocumentError):
        assert all(section.text.strip() for section in read(name, cut))


@pytest.mark.parametrize("parser", BINARY)
def test_damage_anywhere_is_an_error_or_text(parser: str) -> None:
    name, data = SAMPLES[parser]
    for place in range(30, len(data), len(data) // 12):
        damaged = data[:place] + bytes(byte ^ 0xA5 for byte in data[place : place + 40]) + data[place + 40 :]
        with suppress(DocumentError):
            assert read(name, damaged)
