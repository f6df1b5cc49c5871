"""PowerPoint (.pptx)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, Final
from zipfile import ZipFile

from perdure.domain.record import Json
from perdure.parsers.archive import attribute, local, open_archive, read_tree, read_xml
from perdure.parsers.ooxml import Paragraphs, first, related
from perdure.parsers.sections import lay_out
from perdure.ports.parser import Section

_TITLES: Final = {"title", "ctrTitle"}
_MARGINS: Final = {"dt", "ftr", "hdr", "sldNum", "sldImg"}  # the same on every slide


class PptxParser:
    """Reads slides in their order, each with its tables and the speaker's notes. Charts and diagrams are left out."""

    name = "pptx-1"
    suffixes = frozenset({".pptx", ".pptm", ".ppsx"})
    media_types = frozenset({"application/vnd.openxmlformats-officedocument.presentationml.presentation"})
    signature = b"PK\x03\x04"

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield a section per slide, with `slide` (from 1) and its title as `heading`."""
        return lay_out(_parts(open_archive(stream, "ppt/")))


def _parts(archive: ZipFile) -> Iterator[tuple[str, dict[str, Json]]]:
    presentation = first(related(archive), "officeDocument", "ppt/presentation.xml")
    names = dict(related(archive, presentation).get("slide", []))
    listed = (element for element in read_tree(archive, presentation).iter() if local(element.tag) == "sldId")
    order = [names[key] for element in listed if (key := _relation(element.attrib)) in names]
    for number, name in enumerate(order, 1):
        slide = _Slide()
        lines = list(read_xml(archive, name, slide))
        for _, notes in related(archive, name).get("notesSlide", []):
            lines += read_xml(archive, notes, _Slide())
        metadata: dict[str, Json] = {"slide": number}
        yield "\n".join(lines), metadata | ({"heading": [slide.title]} if slide.title else {})


def _relation(attributes: dict[str, str]) -> str:
    """The id of the relation, not that of the slide, which has the same local name."""
    return next((value for key, value in attributes.items() if key.endswith("relationships}id")), "")


class _Slide(Paragraphs[str]):
    """Gathers lines; an empty one before each shape."""

    def __init__(self) -> None:
        super().__init__()
        self.title = ""
        self._kind = ""  # of the placeholder that the shape under way fills

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        super()._begin(name, attributes)
        if name == "sp":
            self._kind = ""
        elif name == "ph":
            self._kind = attribute(attributes, "type") or ""

    def paragraph(self, text: str) -> None:
        if self._kind in _MARGINS:
            return
        if self._kind in _TITLES and not self.title:
            self.title = " ".join(text.split())
        self.made.append(text)

    def row(self, text: str) -> None:
        self.made.append(text)
