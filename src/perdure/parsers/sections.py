"""From text to sections."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from perdure.domain.errors import DocumentEmpty
from perdure.domain.record import Json, Record
from perdure.domain.text import cut
from perdure.ports.parser import Section

SECTION: Final = 1 << 18
"""Most characters of a section."""

# What no reader sees: C0 controls but tab and line break, and the two that are no characters.
_UNWANTED: Final = dict.fromkeys({*range(0x20), 0x7F, 0xFFFE, 0xFFFF} - {0x09, 0x0A})


class Heading(Record):
    """A heading of a document.

    Attributes:
        start: where its section begins, in characters.
        body: where the text after the heading begins.
        level: 1 is outermost.
        title: as a reader sees it, without markup.
    """

    start: int
    body: int
    level: int
    title: str


def stream_sections(texts: Iterable[str], metadata: dict[str, Json] | None = None) -> Iterator[Section]:
    """Cut a stream of text into sections, holding no more than about one of them.

    Args:
        metadata: of every section.

    Raises:
        DocumentEmpty: there is nothing but white space.
    """
    buffer, start, empty = "", 0, True
    for text in texts:
        buffer += text
        while len(buffer) > SECTION:
            end = cut(buffer, SECTION)
            if section := _section(buffer[:end], start, metadata or {}):
                empty = False
                yield section
            start, buffer = start + end, buffer[end:]
    if section := _section(buffer, start, metadata or {}):
        yield section
    elif empty:
        raise no_text()


def outline_sections(
    text: str, headings: Iterable[Heading], common: dict[str, Json] | None = None
) -> Iterator[Section]:
    """Cut a text at its headings; each section knows the path of headings above it.

    A heading with nothing below it belongs to the section that follows: alone it would answer no question.

    Args:
        common: metadata of every section.

    Raises:
        DocumentEmpty: there is nothing but white space.
    """
    if not text.strip():
        raise no_text()
    common = common or {}
    start, path = 0, list[Heading]()
    for heading in headings:
        body = path[-1].body if path else 0
        if text[body : heading.start].strip():
            yield from _bounded(text, start, heading.start, _metadata(path, common))
            start = heading.start
        path = [*(above for above in path if above.level < heading.level), heading]
    yield from _bounded(text, start, len(text), _metadata(path, common))


def lay_out(parts: Iterable[tuple[str, dict[str, Json]]], hint: str = "") -> Iterator[Section]:
    """Put texts one below the other, an empty line between two; each is a section, or several where it is long.

    Args:
        parts: texts with the metadata that holds for all of each.
        hint: why there may be no text.

    Raises:
        DocumentEmpty: there is nothing but white space.
    """
    start = 0
    for part, metadata in parts:
        text = part.translate(_UNWANTED)
        if not text.isascii():
            text = text.encode(errors="replace").decode()  # half a character can be in no store
        if text.strip():
            yield from _bounded(text, 0, len(text), metadata, start)
            start += len(text) + 2
    if not start:
        raise no_text(hint)


def no_text(hint: str = "") -> DocumentEmpty:
    """Build the error of a document without text."""
    return DocumentEmpty(f"there is no text in it{hint}; nothing to search for")


def _metadata(path: list[Heading], common: dict[str, Json]) -> dict[str, Json]:
    titles: list[Json] = [heading.title for heading in path if heading.title]
    return common | {"heading": titles} if titles else common


def _bounded(text: str, start: int, end: int, metadata: dict[str, Json], base: int = 0) -> Iterator[Section]:
    while start < end:
        stop = min(end, cut(text, SECTION, start))
        if section := _section(text[start:stop], base + start, metadata):
            yield section
        start = stop


def _section(text: str, start: int, metadata: dict[str, Json]) -> Section | None:
    return Section(text=text, start=start, metadata=metadata) if text.strip() else None
