"""The reads that search nothing, each on one snapshot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

import apsw

from perdure.domain.document import Chunk, Draft, Namespace
from perdure.vectors.sqlite.chunks import to_json, to_metadata
from perdure.vectors.sqlite.schema import embeddings

HELD: Final = """
SELECT c.chunk_id FROM vector_namespaces n
JOIN vector_documents d ON d.namespace = n.id AND d.document_id = :document
JOIN vector_chunks c ON c.document = d.id AND c.edition = {edition}
     AND c.chunk_id IN (SELECT value FROM json_each(:chunk_ids))
WHERE n.tenant = :tenant AND n.name = :namespace
"""
HELD_BY_DRAFT: Final = (
    HELD.format(edition="d.draft")
    + """
AND d.begun_version = :version AND d.draft_model = :model AND d.draft_dimension = :dimension
"""
)
HELD_BY_PUBLISHED: Final = (
    HELD.format(edition="d.published")
    + """
AND d.version = :version AND (d.complete OR d.epoch >= :epoch)
AND d.model = :model AND d.dimension = :dimension
"""
)

VECTORS: Final = """
SELECT c.hash, v.embedding FROM vector_namespaces n
JOIN vector_documents d ON d.namespace = n.id AND d.document_id = :document
     AND d.model = :model AND d.dimension = :dimension
CROSS JOIN vector_chunks c ON c.document = d.id AND c.edition = d.published
     AND c.hash IN (SELECT value FROM json_each(:hashes))
CROSS JOIN {table} v ON v.rowid = c.id
WHERE n.tenant = :tenant AND n.name = :namespace
"""

TABLE_EXISTS: Final = "SELECT 1 FROM sqlite_schema WHERE name = ?"

CHUNKS: Final = """
SELECT c.chunk_id, c.chunk_index, c.strategy, c.text, c.hash, c.first, c.past, c.metadata
FROM vector_namespaces n
JOIN vector_documents d ON d.namespace = n.id AND d.document_id = ?
JOIN vector_chunks c ON c.document = d.id AND c.edition = d.published AND c.chunk_index > ?
WHERE n.tenant = ? AND n.name = ?
ORDER BY c.chunk_index LIMIT ?
"""

NAMESPACES: Final = """
SELECT tenant, name, model, dimension, documents, chunks FROM vector_namespaces
WHERE tenant = ? AND documents > 0 ORDER BY name
"""


def missing(connection: apsw.Connection, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
    """Those of `chunk_ids` that are not stored."""
    values = {
        **_place(draft),
        "version": draft.document.version,
        "epoch": draft.epoch,
        "chunk_ids": to_json(chunk_ids),
    }
    absent = set(chunk_ids)
    for held in (HELD_BY_DRAFT, HELD_BY_PUBLISHED):
        absent.difference_update(chunk_id for (chunk_id,) in connection.execute(held, values))
    return absent


def vectors(connection: apsw.Connection, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
    """Vectors of the published version that fit the draft."""
    table = embeddings(draft.dimension)
    # Asked by a statement: unlike `table_exists`, that notices tables which another connection made.
    if connection.execute(TABLE_EXISTS, (table,)).fetchone() is None:
        return {}
    values = {**_place(draft), "hashes": to_json(list(chunk_hashes))}
    return dict(connection.execute(VECTORS.format(table=table), values))


def chunks(
    connection: apsw.Connection, tenant: str, namespace: str, document_id: str, limit: int, after: int
) -> list[Chunk]:
    """A page of the version that readers see."""
    found = connection.execute(CHUNKS, (document_id, after, tenant, namespace, limit))
    return [
        Chunk(
            chunk_id=chunk_id,
            chunk_index=index,
            chunk_strategy=strategy,
            chunk_text=text,
            chunk_hash=chunk_hash,
            start=first,
            end=past,
            metadata=to_metadata(metadata),
        )
        for chunk_id, index, strategy, text, chunk_hash, first, past, metadata in found
    ]


def namespaces(connection: apsw.Connection, tenant: str) -> list[Namespace]:
    """Those in which readers see something."""
    return [
        Namespace(
            tenant=owner, name=name, model=model, dimension=dimension, documents=documents, chunks=number
        )
        for owner, name, model, dimension, documents, number in connection.execute(NAMESPACES, (tenant,))
    ]


def _place(draft: Draft) -> dict[str, str | int]:
    return {
        "tenant": draft.document.tenant,
        "namespace": draft.document.namespace,
        "document": draft.document.id,
        "model": draft.model,
        "dimension": draft.dimension,
    }
