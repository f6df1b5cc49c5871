"""No model at all: words are hashed into a vector. For tests, and to measure everything but a model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final
from zlib import crc32

from perdure.domain.errors import InvalidInput
from perdure.ports.embedder import Purpose

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_REMEMBERED: Final = 100_000
_PUNCTUATION: Final = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
_TO_SPACES: Final = bytes.maketrans(_PUNCTUATION, b" " * len(_PUNCTUATION))


class HashingEmbedder:
    """Signed feature hashing of lower-case words (Weinberger et al., "Feature Hashing for Large Scale Multitask
    Learning", 2009): texts that share words are near each other; the same in every process, about 20 µs a text.

    Args:
        dimension: length of the vectors.
    """

    max_batch = 256

    def __init__(self, dimension: int = 256) -> None:
        if dimension < 1:
            raise InvalidInput(f"dimension is {dimension}; expected 1 or more")
        self.dimension = dimension
        self.model = f"hashing-1:{dimension}"
        self._hashes = _Hashes()

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        """As `perdure.ports.embedder.Embedder.embed`."""
        import numpy as np

        if len(texts) > self.max_batch:
            raise InvalidInput(f"{len(texts)} texts in one call; expected at most {self.max_batch}")
        words = [text.lower().encode().translate(_TO_SPACES).split() for text in texts]
        counts = [len(mine) for mine in words]
        hashes = np.fromiter(
            map(self._hashes.__getitem__, chain.from_iterable(words)), dtype=np.uint32, count=sum(counts)
        )
        places = np.repeat(np.arange(len(texts)) * self.dimension, counts) + hashes % self.dimension
        signs = np.where(hashes >> 31, -1.0, 1.0)
        sums = np.bincount(places, weights=signs, minlength=len(texts) * self.dimension)
        vectors = sums.reshape(len(texts), self.dimension).astype(np.float32)
        for row in np.flatnonzero(
            ~vectors.any(axis=1)
        ).tolist():  # no words, or words that cancel one another
            vectors[row, crc32(texts[row].encode()) % self.dimension] = 1.0
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    async def close(self) -> None:
        """Nothing to free."""


class _Hashes(dict[bytes, int]):
    """Remembers the hashes of words, for words come back; forgets them all when they are too many."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _REMEMBERED:
            self.clear()
        hashed = self[word] = crc32(word)
        return hashed
