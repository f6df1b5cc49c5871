"""Documents that are ZIP archives of XML: checked before they are opened, and read piece by piece."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, Final, Generic, TypeVar
from xml.etree.ElementTree import Element, ParseError, TreeBuilder, XMLParser
from zipfile import BadZipFile, ZipFile

from perdure.domain.errors import DocumentUnreadable

Part = TypeVar("Part")

ENTRIES: Final = 20_000
UNPACKED: Final = 4_000_000_000
"""Bytes that all entries may have unpacked."""
RATIO: Final = 200
"""How many times its packed size an entry may have, if that is more than `SMALL`. Real XML has up to about 50."""
SMALL: Final = 10_000_000

_BLOCK: Final = 1 << 16


def open_archive(stream: BinaryIO, *inside: str) -> ZipFile:
    """Open an archive that is safe to unpack, as far as its directory tells; `ZipFile` holds each entry to that.

    Args:
        inside: how the names of its entries begin; one of these there must be.

    Raises:
        DocumentUnreadable: it is encrypted, damaged, a bomb, or an archive of another kind.
    """
    try:
        archive = ZipFile(stream)
    except BadZipFile as error:
        raise DocumentUnreadable(f"its ZIP archive is damaged or cut off ({error}); fetch it again") from None
    entries = archive.infolist()
    if not any(entry.filename.startswith(inside) for entry in entries):
        raise _not_inside(inside[0])
    if len(entries) > ENTRIES:
        raise DocumentUnreadable(f"its archive has {len(entries):,} entries; at most {ENTRIES:,} are read")
    unpacked = sum(entry.file_size for entry in entries)
    if unpacked > UNPACKED:
        raise DocumentUnreadable(
            f"its archive would unpack to {unpacked:,} bytes; at most {UNPACKED:,} are read"
        )
    for entry in entries:
        if entry.file_size > max(SMALL, RATIO * entry.compress_size):
            raise DocumentUnreadable(
                f"{entry.filename!r} in its archive would unpack to {entry.file_size:,} bytes from "
                f"{entry.compress_size:,}: more than {RATIO}-fold, as in an archive that is made to do harm"
            )
        if entry.flag_bits & 1:
            raise DocumentUnreadable("its archive is encrypted; save it without a password, and ingest that")
    return archive


class XmlReader(Generic[Part]):
    """Hears of elements as they come, and gathers what it makes of them in `made`.

    A reader says what it does in `_begin`, `_end` and `_text`; names come without their namespace, for Office has
    two sets of these and means the same.
    """

    def __init__(self) -> None:
        self.made: list[Part] = []

    def _begin(self, name: str, attributes: dict[str, str]) -> None: ...

    def _end(self, name: str) -> None: ...

    def _text(self, text: str) -> None: ...

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""
        self._begin(local(tag), attributes)

    def end(self, tag: str) -> None:
        """An element ends."""
        self._end(local(tag))

    def data(self, text: str) -> None:
        """Some of an element's text."""
        self._text(text)

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse: a document type can define entities that grow without end, or name files to be read in."""
        raise _declared_type()

    def close(self) -> None:
        """The end."""


class _Tree(TreeBuilder):
    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        raise _declared_type()


def read_xml(archive: ZipFile, name: str, reader: XmlReader[Part]) -> Iterator[Part]:
    """Let `reader` hear an entry, and yield what it makes of it as it goes; memory does not grow with the entry.

    Raises:
        DocumentUnreadable: there is no such entry, or it is no XML that is safe to read.
    """
    parser = XMLParser(target=reader)  # noqa: S314 - the reader refuses entities
    with _reading(name), archive.open(name) as file:
        while block := file.read(_BLOCK):
            parser.feed(block)
            yield from reader.made
            reader.made.clear()
        parser.close()
    yield from reader.made


def read_tree(archive: ZipFile, name: str) -> Element:
    """Read a small entry, such as a list of styles, whole.

    Raises:
        DocumentUnreadable: as `read_xml`.
    """
    parser = XMLParser(target=_Tree())  # noqa: S314 - the tree refuses entities
    with _reading(name):
        parser.feed(archive.read(name))
        tree: Element = parser.close()
    return tree


def read_entry(archive: ZipFile, name: str) -> bytes:
    """Read an entry whole.

    Raises:
        DocumentUnreadable: there is no such entry, or it is damaged.
    """
    with _reading(name):
        return archive.read(name)


def local(tag: str) -> str:
    """A name without its namespace."""
    return tag.rpartition("}")[2]


def attribute(element: Element | dict[str, str], name: str) -> str | None:
    """The attribute of this local name."""
    return next((value for key, value in element.items() if local(key) == name), None)


@contextmanager
def _reading(name: str) -> Iterator[None]:
    try:
        yield
    except KeyError:
        raise _not_inside(name) from None
    except (BadZipFile, EOFError, zlib.error, ParseError) as error:
        raise DocumentUnreadable(
            f"{name!r} inside it is damaged ({error}); open it, save it anew, and ingest that"
        ) from None


def _not_inside(name: str) -> DocumentUnreadable:
    return DocumentUnreadable(
        f"it has no {name!r} inside, so it is not what its name says; name it after what it is"
    )


def _declared_type() -> DocumentUnreadable:
    return DocumentUnreadable(
        "XML inside it declares a document type, whose entities could be made to do harm; save it anew with the "
        "program that it is for, which writes none"
    )
