"""Chunk ids: the same text at the same place has the same id for ever, anything else another."""

from __future__ import annotations

import uuid

import pytest
from msgspec.structs import replace

from perdure.domain.document import ChunkIds, Document, make_chunk, text_hash

DOCUMENT = Document(
    tenant="acme", namespace="hr", id="handbook.pdf", version=7, content_hash="0" * 64, ingestion_id="job-1"
)
STRATEGY = "sentences-800@1"


def test_a_chunk_id_is_what_it_always_was() -> None:
    """Stored chunks are found again by these ids: if this fails, every document would be embedded again."""
    chunk = make_chunk(DOCUMENT, STRATEGY, 3, "Days of leave: 30. Größe!", 120)
    assert chunk.chunk_id == "91fc1bd6-b196-56cf-90f1-ffe6a13c32d6"
    assert chunk.chunk_hash == "66e1217c405ae8251527328637e6a2a69e6af567217c40712042dfc64971f7d9"


def test_a_chunk_is_made_of_its_text_and_place() -> None:
    chunk = make_chunk(DOCUMENT, STRATEGY, 3, "Größe", 120, {"page": 4})
    assert uuid.UUID(chunk.chunk_id).version == 5
    assert (chunk.chunk_index, chunk.chunk_strategy, chunk.chunk_text) == (3, STRATEGY, "Größe")
    assert (chunk.start, chunk.end) == (120, 125)
    assert chunk.chunk_hash == text_hash("Größe")
    assert chunk.metadata == {"page": 4}
    assert make_chunk(DOCUMENT, STRATEGY, 3, "Größe", 120).metadata == {}


def test_what_does_not_name_a_chunk_does_not_change_its_id() -> None:
    chunk = make_chunk(DOCUMENT, STRATEGY, 3, "text", 120)
    other = replace(DOCUMENT, content_hash="1" * 64, ingestion_id="job-2", source_metadata={"lang": "de"})
    assert make_chunk(other, STRATEGY, 3, "text", 999, {"page": 1}).chunk_id == chunk.chunk_id


@pytest.mark.parametrize("field", ["tenant", "namespace", "id", "version", "strategy", "index", "text"])
def test_whatever_names_a_chunk_changes_its_id(field: str) -> None:
    given = {"strategy": STRATEGY, "index": 3, "text": "text", "start": 0}
    chunk = make_chunk(DOCUMENT, **given)  # type: ignore[arg-type]  # the fields are as above
    if field in given:
        other = make_chunk(DOCUMENT, **{**given, field: 4 if field == "index" else "other"})  # type: ignore[arg-type]
    else:
        changed = replace(DOCUMENT, **{field: 8 if field == "version" else "other"})
        other = make_chunk(changed, **given)  # type: ignore[arg-type]  # the fields are as above
    assert other.chunk_id != chunk.chunk_id


def test_a_hash_is_the_sha256_of_utf8() -> None:
    assert text_hash("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert text_hash("ä") != text_hash("a\u0308")


def test_many_ids_are_kept_in_few_bytes_and_come_back_in_order() -> None:
    ids = [str(uuid.UUID(int=number)) for number in (3, 1, 2**127)]
    kept = ChunkIds()
    kept.add(ids[:2])
    kept.add([])
    kept.add(ids[2:])
    assert (list(kept), len(kept)) == (ids, 3)
    assert ids[2] in kept
    assert str(uuid.UUID(int=9)) not in kept
