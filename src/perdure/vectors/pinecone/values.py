"""How chunks, documents and vectors are written into records. Metadata holds flat texts, numbers and booleans only, at most
40 KB: what must come back exactly is kept as JSON text, what filters ask for beside it (see `filters`)."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from perdure.domain.document import Chunk, StoredDocument
from perdure.domain.errors import InvalidInput
from perdure.domain.record import Json, Record

MOST_METADATA: Final = 40_000
"""Bytes of a record's metadata, a little below Pinecone's 40 KB."""

PIECE: Final = 6_000
"""Characters of a piece of a long text: as JSON they may take six bytes each."""


class Head(Record):
    """What readers see of a document.

    Attributes:
        mark: the mark of the publication that it repeats.
        lsn: a search that has seen the log up to here sees all of the edition; None: unknown.
    """

    mark: str
    edition: str
    stored: StoredDocument
    lsn: int | None


def encode(value: Any) -> str:
    """Write as JSON text."""
    return msgspec.json.encode(value).decode()


def read_head(metadata: Mapping[str, Any]) -> Head:
    """Read what `head_metadata` wrote."""
    return msgspec.json.decode(metadata["head"], type=Head)


def head_metadata(head: Head) -> dict[str, Any]:
    """Write what readers see.

    Raises:
        InvalidInput: the document's metadata is too large.
    """
    return checked({"head": encode(head)}, f"the source_metadata of document {head.stored.document.id!r}")


def chunk_metadata(chunk: Chunk, tokens: Mapping[str, Json]) -> tuple[dict[str, Any], list[str]]:
    """Write a chunk.

    Args:
        tokens: what filters ask for.

    Returns:
        Its record's metadata; the pieces of its text where that does not fit into it.

    Raises:
        InvalidInput: its metadata is too large.
    """
    facts: dict[str, Any] = {"chunk": encode(replace(chunk, chunk_text="")), "hash": chunk.chunk_hash}
    facts |= {"id": chunk.chunk_id, **tokens}
    whole = facts | {"text": chunk.chunk_text}
    if size(whole) <= MOST_METADATA:
        return whole, []
    pieces = [chunk.chunk_text[at : at + PIECE] for at in range(0, len(chunk.chunk_text), PIECE)]
    facts["pieces"] = len(pieces)
    return checked(facts, f"the metadata of chunk {chunk.chunk_index}"), pieces


def read_chunk(metadata: Mapping[str, Any]) -> tuple[Chunk, int]:
    """Read a chunk; the number of pieces that its text lies in elsewhere, 0 if it is here."""
    chunk = msgspec.json.decode(metadata["chunk"], type=Chunk)
    return replace(chunk, chunk_text=metadata.get("text", "")), int(metadata.get("pieces", 0))


def checked(metadata: dict[str, Any], what: str) -> dict[str, Any]:
    """Let through what Pinecone will take.

    Raises:
        InvalidInput: it is too large.
    """
    if (bytes_ := size(metadata)) > MOST_METADATA:
        raise InvalidInput(
            f"{what} takes {bytes_:,} bytes in Pinecone, which holds {MOST_METADATA:,}; keep less of it, or use pgvector"
        )
    return metadata


def size(metadata: Mapping[str, Any]) -> int:
    """Bytes as JSON."""
    return len(msgspec.json.encode(metadata))


def numbers(vector: bytes, dimension: int) -> list[float]:
    """Spell a vector out, with zeros up to `dimension`: they change no cosine."""
    spelled = list(struct.unpack(f"<{len(vector) // 4}f", vector))[:dimension]
    return spelled + [0.0] * (dimension - len(spelled))


def packed(values: Sequence[float], dimension: int) -> bytes:
    """The vector again, without what was added."""
    return struct.pack(f"<{dimension}f", *values[:dimension])
