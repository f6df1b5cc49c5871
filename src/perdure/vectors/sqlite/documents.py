"""Where a document stands: who holds it, what readers see of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import apsw

from perdure.domain.document import Document, Draft, StoredDocument
from perdure.domain.drafts import Model, Standing
from perdure.domain.moments import moment
from perdure.vectors.sqlite.chunks import Edition, to_metadata

HEAD: Final = """
SELECT n.id, n.documents, n.model, n.dimension,
       d.id, d.begun_version, d.begun_epoch, d.deleted_version, d.last_edition,
       d.draft, d.draft_model, d.draft_dimension, d.published, d.version, d.epoch, d.dimension, d.chunk_count,
       d.complete
FROM vector_namespaces n LEFT JOIN vector_documents d ON d.namespace = n.id AND d.document_id = ?
WHERE n.tenant = ? AND n.name = ?
"""

FIND_STORED: Final = """
SELECT d.document_id, d.version, d.content_hash, d.ingestion_id, d.metadata,
       d.model, d.dimension, d.strategy, d.chunk_count, d.complete, d.published_at, d.epoch
FROM vector_namespaces n JOIN vector_documents d ON d.namespace = n.id
WHERE n.tenant = ? AND n.name = ? AND d.document_id = ? AND d.published IS NOT NULL
"""
LIST_STORED: Final = """
SELECT d.document_id, d.version, d.content_hash, d.ingestion_id, d.metadata,
       d.model, d.dimension, d.strategy, d.chunk_count, d.complete, d.published_at, d.epoch
FROM vector_namespaces n JOIN vector_documents d ON d.namespace = n.id
WHERE n.tenant = ? AND n.name = ? AND d.document_id > ? AND d.published IS NOT NULL
ORDER BY d.document_id LIMIT ?
"""


class Head(NamedTuple):
    """All that decides about a write to a document.

    Attributes:
        namespace, document: their rows; None where there is none.
        documents, model, dimension: of the namespace, as readers see it.
        draft, published, last_edition: numbers of editions; a draft gets its number with its first chunk.
    """

    namespace: int | None
    documents: int
    model: str
    dimension: int
    document: int | None = None
    begun_version: int | None = None
    begun_epoch: int | None = None
    deleted_version: int | None = None
    last_edition: int | None = None
    draft: int | None = None
    draft_model: str | None = None
    draft_dimension: int | None = None
    published: int | None = None
    published_version: int | None = None
    published_epoch: int | None = None
    published_dimension: int | None = None
    published_chunks: int | None = None
    published_complete: int | None = None

    @property
    def standing(self) -> Standing:
        """How far the document has come."""
        return Standing(
            begun=_pair(self.begun_version, self.begun_epoch),
            published=_pair(self.published_version, self.published_epoch),
            complete=bool(self.published_complete),
            deleted=self.deleted_version,
        )

    def serves(self, draft: Draft) -> bool:
        """Whether what was begun is what `draft` goes on with: the same version, from the same model."""
        there = (self.begun_version, self.draft_model, self.draft_dimension)
        return there == (draft.document.version, draft.model, draft.dimension)

    @property
    def next_edition(self) -> int:
        """A number that no edition of the document has had."""
        return 1 + (self.last_edition or 0)

    def edition(self, number: int, dimension: int | None) -> Edition:
        """Where the chunks of one of the document's editions are."""
        assert self.namespace is not None, "an edition is asked for of documents that were begun"
        assert self.document is not None
        assert dimension is not None
        return Edition(self.namespace, self.document, number, dimension)

    @property
    def held(self) -> Model | None:
        """Model and dimension of what readers see in the namespace; None where they see nothing."""
        return (self.model, self.dimension) if self.documents else None


NOWHERE: Final = Head(namespace=None, documents=0, model="", dimension=0)


def head_of(connection: apsw.Connection, tenant: str, namespace: str, document_id: str) -> Head:
    """Read where the document stands."""
    row = connection.execute(HEAD, (document_id, tenant, namespace)).fetchone()
    return NOWHERE if row is None else Head(*row)


def head_for(connection: apsw.Connection, draft: Draft) -> Head:
    """Read where the draft's document stands."""
    return head_of(connection, draft.document.tenant, draft.document.namespace, draft.document.id)


def stored_document(
    connection: apsw.Connection, tenant: str, namespace: str, document_id: str
) -> StoredDocument | None:
    """The version that readers see."""
    row = connection.execute(FIND_STORED, (tenant, namespace, document_id)).fetchone()
    return None if row is None else _stored(tenant, namespace, row)


def stored_documents(
    connection: apsw.Connection, tenant: str, namespace: str, limit: int, after: str | None
) -> list[StoredDocument]:
    """A page of them, by id."""
    rows = connection.execute(LIST_STORED, (tenant, namespace, after or "", limit))
    return [_stored(tenant, namespace, row) for row in rows]


def _stored(tenant: str, namespace: str, row: Sequence[Any]) -> StoredDocument:
    document_id, version, content_hash, ingestion_id, metadata, *rest = row
    model, dimension, strategy, chunk_count, complete, published_at, epoch = rest
    return StoredDocument(
        document=Document(
            tenant=tenant,
            namespace=namespace,
            id=document_id,
            version=version,
            content_hash=content_hash,
            ingestion_id=ingestion_id,
            source_metadata=to_metadata(metadata),
        ),
        model=model,
        dimension=dimension,
        strategy=strategy,
        chunk_count=chunk_count,
        complete=bool(complete),
        published_at=moment(published_at),
        epoch=epoch,
    )


def _pair(version: int | None, epoch: int | None) -> tuple[int, int] | None:
    return None if version is None or epoch is None else (version, epoch)
