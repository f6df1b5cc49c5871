"""What Markdown and reStructuredText have in common: source that reads well as it is, under headings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO, ClassVar, Final

from perdure.parsers.decoding import decode
from perdure.parsers.sections import Heading, outline_sections, stream_sections
from perdure.ports.parser import Section

WHOLE: Final = 4_000_000
"""Characters up to which a document's headings are looked for. Longer ones are read as plain text: streaming,
at the price of the heading paths."""


class OutlineParser(ABC):
    """Keeps the source text as it is, for its markup reads well, and finds the headings."""

    name: ClassVar[str]
    suffixes: ClassVar[frozenset[str]]
    media_types: ClassVar[frozenset[str]]
    signature: ClassVar[bytes] = b""

    def parse(self, stream: BinaryIO, encoding: str | None) -> Iterator[Section]:
        """Yield the sections between headings."""
        texts = decode(stream, encoding)
        head = list[str]()
        size = 0
        for text in texts:
            head.append(text)
            size += len(text)
            if size > WHOLE:
                return stream_sections(chain(head, texts))
        whole = "".join(head)
        return outline_sections(whole, self.headings(whole))

    @abstractmethod
    def headings(self, text: str) -> Iterable[Heading]:
        """Find the headings of a text, in order."""
