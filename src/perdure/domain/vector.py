"""What bytes are a vector that can be compared."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Final

from perdure.domain.document import EmbeddedChunk
from perdure.domain.drafts import Model
from perdure.domain.errors import InvalidInput, ModelMismatch
from perdure.domain.search import SearchQuery

SHORTEST: Final = 1e-15
LONGEST: Final = 1e15
"""Beyond these lengths the squares that cosine similarity needs leave the range of float32."""

# Signs and exponents (all but their last bit) of numbers below 2**19, and of those below 2**-19.
_MODEST: Final = bytes(byte for byte in range(256) if byte & 0x7F <= 0x48)
_TINY: Final = bytes(byte for byte in range(256) if byte & 0x7F < 0x36)


def check_vector(vector: bytes, dimension: int, what: str) -> None:
    """Check that `vector` is `dimension` little-endian float32 numbers with a direction.

    Raises:
        InvalidInput: its size is wrong, it holds NaN or infinity, or it has no direction (all zeros).
    """
    if len(vector) != dimension * 4:
        raise InvalidInput(
            f"{what} has {len(vector)} bytes; expected {dimension * 4}: {dimension} little-endian float32 numbers"
        )
    high = vector[3::4]
    if not high.translate(None, _MODEST) and high.translate(None, _TINY):
        return  # as nearly all are, told in a fifth of the time: none is large, NaN or infinite, and one is not tiny
    length = math.hypot(*struct.unpack(f"<{dimension}f", vector))
    if not SHORTEST < length < LONGEST:  # NaN fails both
        raise InvalidInput(
            f"{what} has the length {length}; expected finite numbers that are not all zero, best of length 1"
        )


def check_vectors(chunks: Iterable[EmbeddedChunk], dimension: int) -> None:
    """Check the vector of each chunk; raises as `check_vector`."""
    for item in chunks:
        check_vector(item.vector, dimension, f"the vector of chunk {item.chunk.chunk_index}")


def check_query(query: SearchQuery, vector: bytes, held: Model) -> None:
    """Check that the query's vector can be compared with those that its namespace holds.

    Raises:
        ModelMismatch: its dimension is another.
        InvalidInput: it holds NaN or infinity, or has no direction.
    """
    model, dimension = held
    if len(vector) != dimension * 4:
        raise ModelMismatch(
            f"the query's vector has {len(vector) // 4} numbers, those of namespace {query.namespace!r} have "
            f"{dimension}; search with the model that filled it, {model!r}"
        )
    check_vector(vector, dimension, "the query's vector")


def required_vector(query: SearchQuery) -> bytes:
    """The query's vector, which a search by meaning must have.

    Raises:
        InvalidInput: there is none.
    """
    if query.vector is None:
        raise InvalidInput(
            "a search by meaning needs the query's vector; to search for words use search_text"
        )
    return query.vector


def required_text(query: SearchQuery) -> str:
    """The query's text, which a search by words must have.

    Raises:
        InvalidInput: there is none.
    """
    if query.text is None:
        raise InvalidInput("a search by words needs the query's text; to search by meaning use search")
    return query.text
