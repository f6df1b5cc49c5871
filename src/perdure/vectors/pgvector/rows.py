"""Chunks on the wire, in PostgreSQL's binary COPY: packed here, which takes half the time of asyncpg's own way."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from struct import Struct
from sys import byteorder
from typing import Any, Final
from uuid import UUID

import msgspec

from perdure.domain.document import Chunk, EmbeddedChunk
from perdure.domain.errors import InvalidInput
from perdure.domain.heads import Edition, Head
from perdure.domain.record import Json

COLUMNS: Final = (
    *("document", "edition", "namespace", "dimension", "chunk_index", "first", "past"),
    *("chunk_id", "chunk_hash", "embedding", "chunk_strategy", "metadata", "chunk_text"),
)
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"
NULL: Final = b"\xff\xff\xff\xff"

# The number of columns; then of each value its length and the value.
_FIXED: Final = Struct(">h iq ii ii ii ii iq iq i16s i32s ihh")
_LENGTH: Final = Struct(">i")
_VECTOR_HEADER: Final = 4

encode_json = msgspec.json.encode
decode_head = msgspec.json.Decoder(Head).decode


def pack(edition: Edition, items: Iterable[EmbeddedChunk]) -> Iterable[bytes]:
    """The rows of an edition's chunks."""
    for item in items:
        chunk, vector = item.chunk, item.vector
        dimension = len(vector) // 4
        yield _FIXED.pack(
            len(COLUMNS),
            *(
                8,
                edition.document,
                4,
                edition.number,
                4,
                edition.namespace,
                4,
                dimension,
                4,
                chunk.chunk_index,
            ),
            *(8, chunk.start, 8, chunk.end),
            *(16, bytes.fromhex(chunk.chunk_id.replace("-", ""))),
            *(32, bytes.fromhex(chunk.chunk_hash)),
            *(len(vector) + _VECTOR_HEADER, dimension, 0),
        )
        yield _swapped(vector)
        yield from _text(chunk.chunk_strategy)
        yield from _bytes(metadata_json(chunk.metadata)) if chunk.metadata else (NULL,)
        yield from _text(chunk.chunk_text)


def metadata_json(metadata: dict[str, Json]) -> bytes:
    """Metadata as it is stored.

    Raises:
        InvalidInput: there is a NUL in it.
    """
    encoded = encode_json(metadata)
    if rb"\u0000" in encoded:
        raise InvalidInput("metadata holds the character NUL, which PostgreSQL cannot store; take it out")
    return encoded


def chunk_of(row: Any) -> Chunk:
    """A row of the statement `chunks`."""
    return Chunk(
        chunk_id=str(row["chunk_id"]),
        chunk_index=row["chunk_index"],
        chunk_strategy=row["chunk_strategy"],
        chunk_text=row["chunk_text"],
        chunk_hash=row["chunk_hash"].hex(),
        start=row["first"],
        end=row["past"],
        metadata=metadata_of(row["metadata"]),
    )


def metadata_of(text: str | None) -> dict[str, Json]:
    """Read metadata that was stored; most chunks have none."""
    metadata: dict[str, Json] = {} if text is None else msgspec.json.decode(text)
    return metadata


def vector_of(sent: bytes) -> bytes:
    """A vector as pgvector sends it, in our order of bytes."""
    return _swapped(sent[_VECTOR_HEADER:])


def numbers_of(vector: bytes) -> list[float]:
    """The numbers of a vector."""
    numbers = array("f", vector)
    if byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()


def uuids(texts: Iterable[str]) -> list[UUID]:
    """Those that are UUIDs: others are no ids of stored chunks."""
    found = []
    for text in texts:
        try:
            found.append(UUID(text))
        except ValueError:
            continue
    return found


def hashes(texts: Iterable[str]) -> list[bytes]:
    """Those that are hexadecimal: others are no hashes of stored chunks."""
    found = []
    for text in texts:
        try:
            found.append(bytes.fromhex(text))
        except ValueError:
            continue
    return found


def _swapped(numbers: bytes) -> bytes:
    swapped = array("I", numbers)
    swapped.byteswap()
    return swapped.tobytes()


def _text(text: str) -> tuple[bytes, bytes]:
    """NUL, which PostgreSQL's texts cannot hold, becomes the replacement character, so that spans stay right."""
    return _bytes(text.replace("\0", "\ufffd").encode())


def _bytes(value: bytes) -> tuple[bytes, bytes]:
    return _LENGTH.pack(len(value)), value
