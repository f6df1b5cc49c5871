"""Pieces of whole sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import version
from typing import Final

from perdure.chunkers.recursive import NOTHING, RecursiveChunker
from perdure.domain.packages import needed
from perdure.domain.record import Json

LIBRARY: Final = "sentencex"


class SentenceChunker(RecursiveChunker):
    """As many sentences as fit; one that is too long alone is cut as by `RecursiveChunker` (library: sentencex).

    Args:
        capacity, overlap: most characters; the overlap too is of whole sentences.
        language: ISO 639 code; decides what is an abbreviation.
    """

    kind = "sentence"

    def __init__(self, capacity: int = 1000, overlap: int = 0, language: str = "en") -> None:
        super().__init__(capacity, overlap)
        self._language = language
        with needed("this way of cutting needs", "chunkers"):
            self._segment = import_module(LIBRARY).segment

    def made_by(self) -> str:
        """Name the language, and what cuts where."""
        return f"{self._language}:{LIBRARY}-{version(LIBRARY)}+{super().made_by()}"

    def split(self, text: str, metadata: Mapping[str, Json] = NOTHING) -> Iterator[tuple[int, str]]:
        """Yield (offset in characters, piece); pieces have no white space at their ends."""
        held = list[tuple[int, int]]()
        for start, end in self._sentences(text):
            if held and end - held[0][0] > self._capacity:
                yield held[0][0], text[held[0][0] : held[-1][1]]
                held = self._repeated(held, end)
            if end - start > self._capacity:
                for offset, piece in super().split(text[start:end]):
                    yield start + offset, piece
                held = []
            else:
                held.append((start, end))
        if held:
            yield held[0][0], text[held[0][0] : held[-1][1]]

    def _sentences(self, text: str) -> Iterator[tuple[int, int]]:
        """Find the sentences' spans, without the white space around them."""
        place = 0
        for sentence in self._segment(self._language, text):
            if stripped := sentence.strip():
                start = place + sentence.index(stripped[0])
                yield start, start + len(stripped)
            place += len(sentence)

    def _repeated(self, held: list[tuple[int, int]], end: int) -> list[tuple[int, int]]:
        """Keep the last sentences that may be repeated in a piece that reaches to `end`."""
        last = held[-1][1]
        return [span for span in held if last - span[0] <= self._overlap and end - span[0] <= self._capacity]
