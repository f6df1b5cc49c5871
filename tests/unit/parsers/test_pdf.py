from __future__ import annotations

import io
import sys

import pytest
from reportlab.pdfgen.canvas import Canvas

from perdure.domain.errors import DocumentEmpty, DocumentError, DocumentUnreadable, UnsupportedFormat
from perdure.parsers.pdf import PdfParser
from perdure.parsers.sandbox import Limits, Sandboxed
from tests.unit.parsers import made
from tests.unit.parsers.streams import parsed

PDF = PdfParser()


def apart(data: bytes, limits: Limits | None = None) -> list[str]:
    """Read it as workers do."""
    return [section.text for section in Sandboxed(PDF, limits or Limits()).parse(io.BytesIO(data), None)]


def letters(text: str) -> str:
    """Without hyphens: one at the end of a line is taken for hyphenation, and its word joined."""
    return "".join(text.split()).replace("-", "")


def test_every_word_is_read_page_by_page() -> None:
    sections = parsed(PDF, made.pdf(made.TOPICS))
    assert letters("".join(s.text for s in sections)) == letters("".join(made.TOPICS.values()))
    assert [s.metadata["page"] for s in sections] == list(range(1, len(sections) + 1))
    assert len(sections) > 15


def test_bookmarks_give_headings_to_the_pages_that_follow() -> None:
    sections = parsed(PDF, made.pdf(made.TOPICS))
    seen = list(dict.fromkeys(str(section.metadata["heading"]) for section in sections))
    assert seen == [str([name]) for name in made.TOPICS]
    assert {section.metadata["title"] for section in sections} == {"The Reference"}


def test_spans_follow_one_another() -> None:
    sections = parsed(PDF, made.pdf(made.TOPICS))
    ends = [section.start + len(section.text) for section in sections]
    assert [section.start for section in sections][1:] == [end + 2 for end in ends[:-1]]


def test_page_without_text_counts_but_says_nothing() -> None:
    data = io.BytesIO()
    canvas = Canvas(data)
    canvas.drawString(50, 700, "One.")
    canvas.showPage()
    canvas.showPage()
    canvas.drawString(50, 700, "Three.")
    canvas.save()
    assert [(s.text, s.metadata["page"]) for s in parsed(PDF, data.getvalue())] == [
        ("One.", 1),
        ("Three.", 3),
    ]


def test_scan_says_that_it_has_no_text() -> None:
    data = io.BytesIO()
    canvas = Canvas(data)
    for _ in range(3):
        canvas.rect(50, 50, 300, 300, fill=1)
        canvas.showPage()
    canvas.save()
    with pytest.raises(DocumentEmpty, match=r"no text in it on any of its 3 pages \(a scan\? run OCR first"):
        apart(data.getvalue())


def test_encrypted_document_says_so() -> None:
    with pytest.raises(DocumentUnreadable, match="encrypted; save it without a password"):
        apart(made.pdf({"secret": "words"}, password="hunter2"))


@pytest.mark.parametrize("kept", [0.02, 0.5, 0.9])
def test_truncated_document_is_unreadable(kept: float) -> None:
    data = made.pdf(made.TOPICS)
    with pytest.raises(DocumentUnreadable, match="damaged, or not what its name says"):
        apart(data[: int(len(data) * kept)])


def test_noise_behind_the_signature_is_unreadable() -> None:
    with pytest.raises(DocumentUnreadable, match="damaged"):
        apart(b"%PDF-1.7\n" + bytes(range(256)) * 100)


def many_objects(count: int) -> bytes:
    objects = b"".join(
        b"%d 0 obj\n<</Parent 2 0 R/Next %d 0 R>>\nendobj\n" % (n, n + 1) for n in range(4, count)
    )
    return (
        b"%PDF-1.7\n1 0 obj\n<</Type/Catalog/Pages 2 0 R/Outlines 4 0 R>>\nendobj\n"
        b"2 0 obj\n<</Type/Pages/Kids[3 0 R]/Count 1>>\nendobj\n"
        b"3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]>>\nendobj\n"
        + objects
        + b"trailer\n<</Root 1 0 R/Size %d>>\n%%%%EOF" % count
    )


@pytest.mark.slow
def test_a_million_objects_end_in_an_answer_within_the_limits() -> None:
    with pytest.raises(DocumentError):
        apart(many_objects(1_000_000), Limits(memory=500_000_000, silence=60, cpu=60))


def test_pages_that_hold_one_another_end_in_an_answer() -> None:
    data = (
        b"%PDF-1.7\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n"
        b"2 0 obj\n<</Type/Pages/Kids[2 0 R 2 0 R]/Count 1000000>>\nendobj\n"
        b"trailer\n<</Root 1 0 R/Size 3>>\n%%EOF"
    )
    with pytest.raises(DocumentError):
        apart(data, Limits(memory=500_000_000, silence=60, cpu=30))


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    with pytest.raises(UnsupportedFormat, match=r"'pypdfium2': pip install \"perdure\[documents\]\""):
        parsed(PDF, made.pdf({"a": "b"}))
