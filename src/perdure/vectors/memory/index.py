"""Searching a namespace: exactly, by meaning and by words."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from perdure.domain.document import Chunk, StoredDocument

if TYPE_CHECKING:
    import numpy.typing as npt

    from perdure.vectors.memory.shelf import Edition

    Floats: TypeAlias = npt.NDArray[np.float32]

Row: TypeAlias = tuple[StoredDocument, Chunk]
Found: TypeAlias = tuple[float, Row]
"""(score, row)"""

WORD: Final = re.compile(r"\w+")
SATURATION: Final = 1.2
LENGTH_WEIGHT: Final = 0.75
"""k1 and b of BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework", 2009)."""

DOUBT: Final = 1e-4
"""More than the error of a matrix product in float32 over unit vectors."""


class Index:
    """The published chunks of a namespace, as they were at one moment."""

    def __init__(self, editions: Iterable[Edition]) -> None:
        held = [(edition.stored, item) for edition in editions for item in edition.chunks.values()]
        self.rows: list[Row] = [(stored, item.chunk) for stored, item in held if stored is not None]
        self._vectors = [item.vector for _, item in held]

    def nearest(self, vector: bytes, eligible: Sequence[int], limit: int) -> list[Found]:
        """The rows among `eligible` nearest to `vector` by cosine similarity, best first, ties by chunk id."""
        if not eligible:
            return []
        query = _units([vector])[0]
        places = np.fromiter(eligible, dtype=np.intp)
        if len(places) > limit:
            # A matrix product is quick, but equal rows may come out unequal by a hair: it only finds who is near.
            rough = self._units[places] @ query
            places = places[rough >= np.partition(rough, -limit)[-limit] - DOUBT]
        scores = np.clip((self._units[places] * query).sum(axis=1), -1.0, 1.0)
        found = [
            (score, self.rows[place]) for score, place in zip(scores.tolist(), places.tolist(), strict=True)
        ]
        return sorted(found, key=_best_first)[:limit]

    def containing(self, text: str, eligible: Sequence[int], limit: int) -> list[Found]:
        """The rows among `eligible` that hold words of `text`, by BM25, best first, ties by chunk id."""
        wanted = {word: self._rarity(word) for word in set(split_words(text)) if word in self._spread}
        found = []
        for place in eligible:
            held = self._words[place]
            score = sum(rarity * self._weight(held, word) for word, rarity in wanted.items() if word in held)
            if score > 0:
                found.append((score, self.rows[place]))
        return sorted(found, key=_best_first)[:limit]

    # --- behind it --------------------------------------------------------------------------

    @cached_property
    def _units(self) -> Floats:
        return _units(self._vectors)

    @cached_property
    def _words(self) -> list[Counter[str]]:
        return [Counter(split_words(chunk.chunk_text)) for _, chunk in self.rows]

    @cached_property
    def _spread(self) -> Counter[str]:
        """In how many rows each word occurs."""
        return Counter(word for held in self._words for word in held)

    @cached_property
    def _usual_length(self) -> float:
        return sum(held.total() for held in self._words) / len(self._words)

    def _rarity(self, word: str) -> float:
        spread = self._spread[word]
        return math.log(1 + (len(self.rows) - spread + 0.5) / (spread + 0.5))

    def _weight(self, held: Counter[str], word: str) -> float:
        length = 1 - LENGTH_WEIGHT + LENGTH_WEIGHT * held.total() / self._usual_length
        return held[word] * (SATURATION + 1) / (held[word] + SATURATION * length)


def split_words(text: str) -> list[str]:
    """The words of a text, without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return WORD.findall("".join(letter for letter in plain if not unicodedata.combining(letter)))


def _units(vectors: Sequence[bytes]) -> Floats:
    """Bring vectors of one dimension to length 1."""
    matrix = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), -1).astype(np.float64)
    units: Floats = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return units


def _best_first(found: Found) -> tuple[float, str]:
    score, (_, chunk) = found
    return (-score, chunk.chunk_id)
