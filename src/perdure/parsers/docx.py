"""Word (.docx)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Final
from zipfile import ZipFile

from perdure.domain.record import Json
from perdure.parsers.archive import attribute, local, open_archive, read_tree, read_xml
from perdure.parsers.ooxml import Paragraphs, first, related
from perdure.parsers.sections import SECTION, lay_out
from perdure.ports.parser import Section

_HEADING: Final = re.compile("heading ([1-9])", re.IGNORECASE)
_BODY: Final = 9  # the outline level of what is no heading

Styles = Mapping[str, int]
"""Id of a paragraph style → level of the heading that it makes, from 1; 0 is the document's title."""


class DocxParser:
    """Reads paragraphs, tables, notes and text boxes under the headings that their styles make; what was deleted
    under change tracking is left out, as are headers and footers. Streams: memory does not grow with the text.
    """

    name = "docx-1"
    suffixes = frozenset({".docx", ".docm"})
    media_types = frozenset({"application/vnd.openxmlformats-officedocument.wordprocessingml.document"})
    signature = b"PK\x03\x04"

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the sections between headings, with `heading`."""
        return lay_out(_parts(open_archive(stream, "word/")))


def _parts(archive: ZipFile) -> Iterator[tuple[str, dict[str, Json]]]:
    document = first(related(archive), "officeDocument", "word/document.xml")
    relations = related(archive, document)
    styles = _styles(archive, first(relations, "styles", "word/styles.xml"))
    body = _Body(styles)
    yield from read_xml(archive, document, body)
    yield from body.finish()
    for kind in ("footnotes", "endnotes"):
        for _, name in relations.get(kind, []):
            notes = _Body({})
            yield from read_xml(archive, name, notes)
            yield from notes.finish()


def _styles(archive: ZipFile, name: str) -> Styles:
    if name not in archive.namelist():
        return {}
    levels, parents = dict[str, int](), dict[str, str]()
    for style in read_tree(archive, name):
        style_id = attribute(style, "styleId")
        if local(style.tag) != "style" or style_id is None:
            continue
        for element in style.iter():
            value = attribute(element, "val") or ""
            match local(element.tag):
                case "outlineLvl" if value.isdecimal() and int(value) < _BODY:
                    levels[style_id] = int(value) + 1
                case "name" if found := _HEADING.fullmatch(value):
                    levels.setdefault(style_id, int(found[1]))
                case "name" if value.lower() == "title":
                    levels[style_id] = 0
                case "basedOn":
                    parents[style_id] = value
    return {
        style: level for style in {*levels, *parents} if (level := _level(style, levels, parents)) is not None
    }


def _level(style: str, levels: Styles, parents: Mapping[str, str]) -> int | None:
    """The level of a style, its own or that of the nearest style that it is based on."""
    seen = set[str]()
    while style not in levels and style in parents and style not in seen:
        seen.add(style)
        style = parents[style]
    return levels.get(style)


class _Body(Paragraphs[tuple[str, dict[str, Json]]]):
    """Gathers paragraphs and rows into parts, one for each heading with text below."""

    def __init__(self, styles: Styles) -> None:
        super().__init__()
        self._styles = styles
        self._level: int | None = None  # of the paragraph under way
        self._listed = False
        self._path: list[tuple[int, str]] = []
        self._lines: list[str] = []  # of the part under way
        self._size = 0
        self._bare = True  # the part has nothing but headings yet
        self._in_table = False

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        super()._begin(name, attributes)
        match name:
            case "p":
                self._level, self._listed = None, False
            case "pStyle":
                self._level = self._styles.get(attribute(attributes, "val") or "")
            case "outlineLvl" if (value := attribute(attributes, "val") or "").isdecimal():
                self._level = int(value) + 1 if int(value) < _BODY else None
            case "numPr":
                self._listed = True

    def paragraph(self, text: str) -> None:
        self._in_table = False
        if self._level is None:
            self._add("- " + text if self._listed else text, "\n" if self._listed else "\n\n")
            return
        title = " ".join(text.split())
        if not self._bare:
            self._flush()
        level = self._level
        self._path = [*(above for above in self._path if above[0] < level), (level, title)]
        self._lines += ["\n\n" if self._lines else "", text]

    def row(self, text: str) -> None:
        self._add(text, "\n" if self._in_table else "\n\n")
        self._in_table = True

    def _add(self, text: str, gap: str) -> None:
        if self._size > SECTION:
            self._flush()
        self._lines += [gap if self._lines else "", text]
        self._size += len(text)
        self._bare = False

    def _flush(self) -> None:
        titles: list[Json] = [title for _, title in self._path]
        self.made.append(("".join(self._lines), {"heading": titles} if titles else {}))
        self._lines, self._size, self._bare = [], 0, True

    def finish(self) -> Iterator[tuple[str, dict[str, Json]]]:
        """What is left."""
        self.made.clear()
        if self._lines:
            self._flush()
        yield from self.made
