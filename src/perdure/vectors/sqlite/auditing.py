"""Whether what the tables say of documents is what lies there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import apsw

from perdure.domain.heads import Place
from perdure.ports.vector_store import Audit, Surplus
from perdure.vectors.sqlite.chunks import ChunkRows
from perdure.vectors.sqlite.documents import head_of

CHUNKS: Final = "SELECT count(*) FROM vector_chunks WHERE document = ? AND edition = ?"
VECTORS: Final = """
SELECT count(*) FROM vector_chunks c CROSS JOIN {table} v ON v.rowid = c.id WHERE c.document = ? AND c.edition = ?
"""
TABLES: Final = """
SELECT name, CAST(substr(name, 19) AS INTEGER) AS dimension FROM sqlite_schema
WHERE name GLOB 'vector_embeddings_[0-9]*' AND name = 'vector_embeddings_' || CAST(substr(name, 19) AS INTEGER)
"""

COUNT: Final = "UPDATE vector_namespaces SET documents = documents + ?, chunks = chunks + ? WHERE id = ?"

STRAY_CHUNKS: Final = """
SELECT c.id FROM vector_documents d CROSS JOIN vector_chunks c ON c.document = d.id
WHERE d.namespace = ? AND c.edition IS NOT d.published AND c.edition IS NOT d.draft
  AND NOT EXISTS (SELECT 1 FROM vector_dropped v WHERE v.document = c.document AND v.edition = c.edition)
LIMIT ?
"""
STRAY_VECTORS: Final = """
SELECT rowid FROM {table} WHERE namespace = ? AND rowid NOT IN (SELECT id FROM vector_chunks) LIMIT ?
"""
NAMESPACE: Final = "SELECT id, documents, chunks FROM vector_namespaces WHERE tenant = ? AND name = ?"
COUNTED: Final = """
SELECT count(*), ifnull(sum(chunk_count), 0) FROM vector_documents WHERE namespace = ? AND published IS NOT NULL
"""


def audit(
    connection: apsw.Connection, tenant: str, namespace: str, document_ids: Sequence[str]
) -> list[tuple[str, Audit]]:
    """Compare, on one snapshot."""
    return [(one, audit_one(connection, (tenant, namespace, one))) for one in document_ids]


def audit_one(connection: apsw.Connection, place: Place) -> Audit:
    """Compare one."""
    head = head_of(connection, place)
    stored = head.stored(*place[:2])
    if stored is None:
        return Audit(deleted=head.deleted_version)
    edition = (head.id, head.published)
    vectors = 0
    for table, dimension in connection.execute(TABLES).fetchall():
        if dimension == stored.dimension:
            [(vectors,)] = connection.execute(VECTORS.format(table=table), edition)
    [(chunks,)] = connection.execute(CHUNKS, edition)
    return Audit(stored=stored, deleted=head.deleted_version, chunks=chunks, vectors=vectors)


def tidy(connection: apsw.Connection, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
    """Find what belongs to nothing, and wrong counts."""
    found = connection.execute(NAMESPACE, (tenant, namespace)).fetchone()
    if found is None:
        return Surplus()
    place, *told = found
    rows = {row for (row,) in connection.execute(STRAY_CHUNKS, (place, limit))}
    tables = connection.execute(TABLES).fetchall()
    for table, _ in tables:
        left = limit - len(rows)
        rows |= {row for (row,) in connection.execute(STRAY_VECTORS.format(table=table), (place, left))}
    counted = connection.execute(COUNTED, (place,)).fetchone() or (0, 0)
    documents, chunks = counted[0] - told[0], counted[1] - told[1]
    if remove:
        for _, dimension in tables:
            ChunkRows(connection).remove(int(str(dimension)), rows)
        connection.execute(COUNT, (documents, chunks, place))
    return Surplus(chunks=len(rows), miscounted=abs(documents) + abs(chunks))
