"""markitdown as it is; docling, whose models cannot be had everywhere, by a small stand-in of the same shape."""

from __future__ import annotations

import io
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from perdure.domain.errors import DocumentUnreadable, InvalidInput, UnsupportedFormat
from perdure.parsers import default_parsers
from perdure.parsers.converters import DoclingPdf, MarkitdownOffice, converters
from perdure.parsers.registry import HEAD
from tests.unit.parsers import made
from tests.unit.parsers.streams import headings, parsed


@pytest.mark.slow
def test_markitdown_reads_word_in_a_process_of_its_own() -> None:
    data = made.word(made.TOPICS)
    parser = default_parsers(converter="markitdown").choose("a.docx", None, data[:HEAD])
    assert parser.name.startswith("markitdown-0.")
    sections = list(parser.parse(io.BytesIO(data), None))
    assert headings(sections)[-1] == ["if"]
    assert "with" in {
        path[-1] for section in sections if isinstance(path := section.metadata.get("heading"), list)
    }


def test_other_formats_keep_their_parsers() -> None:
    parsers = default_parsers(converter="markitdown")
    assert parsers.choose("a.epub", None, made.book({"a": "b"})[:HEAD]).name == "epub-1"
    assert ".msg" in parsers.suffixes


def test_what_markitdown_cannot_read_is_unreadable() -> None:
    data = made.word(made.TOPICS)
    parser = default_parsers(converter="markitdown").choose("a.docx", None, data[:HEAD])
    with pytest.raises(DocumentUnreadable):
        list(parser.parse(io.BytesIO(data[:5000]), None))


def test_docling_is_asked_for_markdown(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Any]()

    class Converter:
        def convert(self, source: Any) -> Any:
            asked.append(source)
            return SimpleNamespace(document=SimpleNamespace(export_to_markdown=lambda: "# One\n\ntext\n"))

    models = ModuleType("docling.datamodel.base_models")
    models.DocumentStream = lambda name, stream: (name, stream.read())  # type: ignore[attr-defined]
    converter = ModuleType("docling.document_converter")
    converter.DocumentConverter = Converter  # type: ignore[attr-defined]
    for name in ("docling", "docling.datamodel"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, models.__name__, models)
    monkeypatch.setitem(sys.modules, converter.__name__, converter)
    (section,) = parsed(DoclingPdf(), b"%PDF-1.7 words")
    assert (section.text.strip(), section.metadata) == ("# One\n\ntext", {"heading": ["One"]})
    assert asked == [("document.pdf", b"%PDF-1.7 words")]


def test_converter_that_is_not_installed_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markitdown", None)
    with pytest.raises(UnsupportedFormat, match=r"pip install \"perdure\[markitdown\]\""):
        parsed(MarkitdownOffice(), made.word({"a": "b"}))
    monkeypatch.setitem(sys.modules, "docling", None)
    with pytest.raises(UnsupportedFormat, match=r"pip install \"perdure\[docling\]\""):
        parsed(DoclingPdf(), b"%PDF-")


def test_unknown_converter_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(
        InvalidInput, match="PERDURE_PARSERS is 'tika'; expected markitdown, docling, or nothing"
    ):
        converters("tika")
