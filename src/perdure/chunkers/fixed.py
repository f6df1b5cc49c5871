"""Pieces of one length, cut wherever that falls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from perdure.chunkers.recursive import NOTHING, RecursiveChunker
from perdure.domain.record import Json


class FixedChunker(RecursiveChunker):
    """Every piece but a section's last has `capacity` characters, the first `overlap` of them those of the piece before."""

    kind = "fixed"

    def made_by(self) -> str:
        """Name this rule; no library has a say in it."""
        return "perdure-1"

    def split(self, text: str, metadata: Mapping[str, Json] = NOTHING) -> Iterator[tuple[int, str]]:
        """Yield (offset in characters, piece), leaving out pieces of white space."""
        for start in range(0, max(1, len(text) - self._overlap), self._capacity - self._overlap):
            piece = text[start : start + self._capacity]
            if piece.strip():
                yield start, piece
