"""Documents and their chunks, with ids and hashes that the same input always gives."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import datetime

import msgspec

from perdure.domain.ids import uuid5_under
from perdure.domain.record import Json, Record

DEFAULT_NAMESPACE = "default"


class Document(Record):
    """One version of one document.

    Attributes:
        id: names the document inside its namespace, the same for all its versions.
        version: grows with every version; by default the microsecond at which it was submitted.
        content_hash: SHA-256 of the source's bytes, hexadecimal.
        ingestion_id: the job that brought this version.
        source_metadata: the caller's own facts about it; search filters by them.
    """

    tenant: str
    namespace: str
    id: str
    version: int
    content_hash: str
    ingestion_id: str
    source_metadata: dict[str, Json] = msgspec.field(default_factory=dict)


class Chunk(Record):
    """A piece of one document version.

    Attributes:
        chunk_id: see `chunk_id()`.
        chunk_index: its place in the document, from 0.
        chunk_strategy: names splitter, parameters and library version.
        chunk_hash: SHA-256 of the text, hexadecimal.
        start, end: the span in the document's extracted text, in characters, end exclusive.
        metadata: what the parser knows of this place: `heading` (path), `page`, …
    """

    chunk_id: str
    chunk_index: int
    chunk_strategy: str
    chunk_text: str
    chunk_hash: str
    start: int
    end: int
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)


class ChunkIds(Collection[str]):
    """Ids of chunks in order, in 16 bytes each: a document may have millions."""

    def __init__(self) -> None:
        self._packed = bytearray()

    def add(self, chunk_ids: Iterable[str]) -> None:
        """Put more at the end."""
        self._packed += bytes.fromhex("".join(chunk_ids).replace("-", ""))

    def __iter__(self) -> Iterator[str]:
        for place in range(0, len(self._packed), 16):
            text = self._packed[place : place + 16].hex()
            yield f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"

    def __len__(self) -> int:
        return len(self._packed) // 16

    def __contains__(self, chunk_id: object) -> bool:
        return any(chunk_id == each for each in self)


class EmbeddedChunk(Record):
    """A chunk with its vector: float32, little-endian, ``dimension * 4`` bytes."""

    chunk: Chunk
    vector: bytes


class Draft(Record):
    """A document version that is being written, under the epoch of the job that writes it.

    Attributes:
        epoch: orders the runs that write the same version: the newest wins.
        model, dimension: of the vectors; one per namespace.
        strategy: of the chunks.
    """

    document: Document
    epoch: int
    model: str
    dimension: int
    strategy: str

    def published(self, chunk_count: int, *, complete: bool, at: datetime) -> StoredDocument:
        """What readers see of it from then on."""
        return StoredDocument(
            document=self.document,
            model=self.model,
            dimension=self.dimension,
            strategy=self.strategy,
            chunk_count=chunk_count,
            complete=complete,
            published_at=at,
            epoch=self.epoch,
        )


class StoredDocument(Record):
    """A document version that readers see.

    Attributes:
        chunk_count: how many chunks it has; failed ones are not among them.
        complete: False where chunks are missing because they failed for good.
        published_at: when readers began to see it.
        epoch: of the run that published it; with the version, the turn of what readers see.
    """

    document: Document
    model: str
    dimension: int
    strategy: str
    chunk_count: int
    complete: bool
    published_at: datetime
    epoch: int = 0


class Namespace(Record):
    """What a namespace holds, and the model that all of its vectors come from."""

    tenant: str
    name: str
    model: str
    dimension: int
    documents: int
    chunks: int


def text_hash(text: str) -> str:
    """SHA-256 of the text's UTF-8 form, hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


def make_chunk(
    document: Document,
    strategy: str,
    index: int,
    text: str,
    start: int,
    metadata: dict[str, Json] | None = None,
) -> Chunk:
    """Build the chunk, with the id that this text at this place always has."""
    return chunk_maker(document, strategy)(index, text, start, metadata)


def chunk_maker(
    document: Document, strategy: str
) -> Callable[[int, str, int, dict[str, Json] | None], Chunk]:
    """Give what builds the document's chunks, as `make_chunk` does, of index, text, start and metadata."""
    identify = uuid5_under(document.tenant, document.namespace, document.id, str(document.version), strategy)

    def make(index: int, text: str, start: int, metadata: dict[str, Json] | None) -> Chunk:
        hashed = text_hash(text)
        return Chunk(
            chunk_id=identify(str(index), hashed),
            chunk_index=index,
            chunk_strategy=strategy,
            chunk_text=text,
            chunk_hash=hashed,
            start=start,
            end=start + len(text),
            metadata=metadata or {},
        )

    return make
