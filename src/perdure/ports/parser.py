"""What turns a file into text, and text into pieces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import BinaryIO, Protocol

import msgspec

from perdure.domain.record import Json, Record


class Section(Record):
    """A run of a document's text that belongs together: at most about 1 MB, so that memory stays bounded.

    Attributes:
        text: never empty.
        start: where it begins in the whole extracted text, in characters. Sections follow one another;
            whatever lies between two (at least a line break is assumed) belongs to no chunk.
        metadata: what holds for all of it: `heading` (list of headings, outermost first), `page`, …
    """

    text: str
    start: int
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)


class Parser(Protocol):
    """One family of formats."""

    @property
    def name(self) -> str:
        """Names format and revision (`markdown-1`): it changes when the same bytes would give another text."""
        ...

    @property
    def suffixes(self) -> frozenset[str]:
        """File name endings that it reads: lower case, with the dot."""
        ...

    @property
    def media_types(self) -> frozenset[str]:
        """Media types that it reads, lower case, without parameters."""
        ...

    @property
    def signature(self) -> bytes:
        """What stands at the beginning of every file that it reads; empty: nothing does, for they are text."""
        ...

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the document's text, section by section, in order; runs in a thread.

        Args:
            stream: the bytes, at their beginning; seekable; the caller closes it.
            encoding: of the bytes; None: by byte order mark, else UTF-8.

        Raises:
            DocumentUnreadable: binary, or not in that encoding; says where and what to do.
            DocumentEmpty: there is no text in it.
        """
        ...


class Chunker(Protocol):
    """One way to cut text."""

    @property
    def strategy(self) -> str:
        """Names algorithm, parameters and library version: all that decides where the cuts fall."""
        ...

    def split(self, text: str, metadata: Mapping[str, Json] = ...) -> Iterator[tuple[int, str]]:
        """Yield (offset in characters, piece) in order; pieces hold text, and ``text[o:o+len(p)] == p``.

        Args:
            metadata: of the section, where its `language` may help.
        """
        ...
