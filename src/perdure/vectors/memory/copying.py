"""What goes in and out is copied: nobody shares the dictionaries inside a record with the store."""

from __future__ import annotations

from msgspec.structs import replace

from perdure.domain.document import Chunk, Document, StoredDocument
from perdure.domain.record import Json


def copy_metadata(metadata: dict[str, Json]) -> dict[str, Json]:
    """Copy metadata, however deep it is."""
    return {key: _copy(value) for key, value in metadata.items()}


def own_chunk(chunk: Chunk) -> Chunk:
    """Copy a chunk."""
    return replace(chunk, metadata=copy_metadata(chunk.metadata))


def own_document(document: Document) -> Document:
    """Copy a document."""
    return replace(document, source_metadata=copy_metadata(document.source_metadata))


def own_stored(stored: StoredDocument) -> StoredDocument:
    """Copy a document as readers see it."""
    return replace(stored, document=own_document(stored.document))


def _copy(value: Json) -> Json:
    match value:
        case dict():
            return copy_metadata(value)
        case list():
            return [_copy(item) for item in value]
        case _:
            return value
