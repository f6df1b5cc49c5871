"""The writes: begin, upsert, publish, delete, sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final

import apsw

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import (
    Matching,
    check_begin,
    check_model,
    check_write,
    is_published,
    newest_version,
    published_itself,
    shows_already,
    turn,
)
from perdure.domain.errors import StaleWrite
from perdure.domain.moments import micros
from perdure.ports.vector_store import Begun
from perdure.vectors.sqlite.chunks import ChunkRows, Edition, from_metadata
from perdure.vectors.sqlite.documents import (
    Head,
    head_for,
    head_of,
    stored_document,
)
from perdure.vectors.sqlite.schema import create_embeddings

# A statement that SQLite may have to undo halfway (RETURNING, ON CONFLICT, REPLACE) makes the index of words write out
# what it gathered, as a savepoint does (see `batches`); so there are none here.
ADD_NAMESPACE: Final = "INSERT INTO vector_namespaces (tenant, name) VALUES (?, ?)"
ADD_DOCUMENT: Final = "INSERT INTO vector_documents (namespace, document_id) VALUES (?, ?)"
HOLD: Final = """
UPDATE vector_documents
SET begun_version = ?, begun_epoch = ?, draft_model = ?, draft_dimension = ?, draft = ? WHERE id = ?
"""
NEW_DRAFT: Final = "UPDATE vector_documents SET last_edition = ?1, draft = ?1 WHERE id = ?2"

SHOW: Final = """
UPDATE vector_documents
SET published = ?1, last_edition = max(last_edition, ?1), draft = NULL, version = ?2, epoch = ?3, content_hash = ?4,
    ingestion_id = ?5, metadata = ?6, model = ?7, dimension = ?8, strategy = ?9, chunk_count = ?10, complete = ?11,
    published_at = ?12
WHERE id = ?13
"""
COUNT: Final = """
UPDATE vector_namespaces SET documents = documents + ?, chunks = chunks + ?, model = ?, dimension = ? WHERE id = ?
"""

FORGET_DRAFT: Final = "UPDATE vector_documents SET draft = NULL WHERE id = ?"
FORGET_PUBLISHED: Final = (
    "UPDATE vector_documents SET published = NULL, version = NULL, epoch = NULL WHERE id = ?"
)
BURY: Final = (
    "UPDATE vector_documents SET deleted_version = max(ifnull(deleted_version, ?1), ?1) WHERE id = ?2"
)

TAKE_EDITION: Final = "UPDATE vector_documents SET last_edition = ? WHERE id = ?"
DROP: Final = "INSERT INTO vector_dropped (document, edition, dimension) VALUES (?, ?, ?)"
DROPPED: Final = """
SELECT d.namespace, v.document, v.edition, v.dimension
FROM vector_dropped v JOIN vector_documents d ON d.id = v.document LIMIT 1
"""
SWEPT: Final = "DELETE FROM vector_dropped WHERE document = ? AND edition = ?"

SWEPT_AT_ONCE: Final = 64
"""Chunks of a superseded edition that go with it in the same step, so that small documents leave nothing to sweep."""


class Writing:
    """One transaction. Whoever opens it calls `finish` before it is committed."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._execute = connection.execute
        self._rows = ChunkRows(connection)

    def finish(self) -> None:
        """Write what was put off."""
        self._rows.flush()

    def flushed(self) -> apsw.Connection:
        """The transaction, with all written that was put off."""
        self._rows.flush()
        return self._connection

    def begin(self, draft: Draft) -> Begun:
        """Let the draft hold its document."""
        head, document = head_for(self._connection, draft), draft.document
        check_begin(draft, head.standing)
        check_model(draft, head.held)
        create_embeddings(self._connection, draft.dimension)
        kept = head.draft if head.serves(draft) else None
        if head.draft is not None and kept is None:
            self._drop(head.edition(head.draft, head.draft_dimension))
        place = self._place(head, document.tenant, document.namespace, document.id)
        self._execute(HOLD, (*turn(draft), draft.model, draft.dimension, kept, place))
        return Begun(
            published=None if head.published is None else self._published(draft),
            resumed=head.serves(draft),
        )

    def affirm(self, draft: Draft) -> StoredDocument | None:
        """Let the draft hold its document, if readers see already what it would show."""
        document = draft.document
        stored = stored_document(self._connection, document.tenant, document.namespace, document.id)
        if stored is None or not shows_already(stored, draft):
            return None
        head = head_for(self._connection, draft)
        try:
            check_begin(draft, head.standing)
        except StaleWrite:
            return None
        if head.draft is not None:
            return None
        self._execute(HOLD, (*turn(draft), draft.model, draft.dimension, None, head.document))
        return stored

    def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """Store chunks of the draft."""
        head = head_for(self._connection, draft)
        if not _writable(draft, head):
            return
        given = {item.chunk.chunk_id: item for item in chunks}
        edition = head.edition(head.draft or head.next_edition, draft.dimension)
        if head.draft is None:
            self._execute(NEW_DRAFT, (edition.number, edition.document))
        else:
            self._rows.remove(draft.dimension, self._rows.among(edition, given))
        self._rows.insert(edition, given.values())

    def publish(
        self, draft: Draft, chunk_ids: Collection[str], last: Sequence[EmbeddedChunk], *, complete: bool
    ) -> StoredDocument:
        """Let readers see exactly these chunks of the draft."""
        head = head_for(self._connection, draft)
        if not _writable(draft, head):
            return self._published(draft)
        check_model(draft, head.held)
        edition = head.edition(head.draft or head.next_edition, draft.dimension)
        given = {item.chunk.chunk_id: item for item in last}
        matching = Matching(chunk_ids, given)
        stored = () if head.draft is None else self._rows.all(edition)
        surplus = [row for chunk_id, row in stored if not matching.shows(chunk_id)]
        matching.end(draft)
        self._leave_out(head, edition, surplus)
        self._rows.insert(edition, [item for chunk_id, item in given.items() if chunk_id in matching.shown])
        shown = draft.published(matching.count, complete=complete, at=datetime.now(UTC))
        self._show(head, edition, draft.epoch, shown)
        return shown

    def delete(self, tenant: str, namespace: str, document_id: str, version: int | None) -> int:
        """Remove versions up to `version` (None: the newest known) for good; how many chunks readers lose."""
        head = head_of(self._connection, tenant, namespace, document_id)
        last = newest_version(head.standing) if version is None else version
        if last is None:
            return 0
        place = self._place(head, tenant, namespace, document_id)
        self._execute(BURY, (last, place))
        lost = 0
        if head.published is not None and (head.published_version or 0) <= last:
            lost = head.published_chunks or 0
            self._execute(FORGET_PUBLISHED, (place,))
            self._execute(COUNT, (-1, -lost, head.model, head.dimension, head.namespace))
            self._drop(head.edition(head.published, head.published_dimension))
        if head.draft is not None and (head.begun_version or 0) <= last:
            self._execute(FORGET_DRAFT, (place,))
            self._drop(head.edition(head.draft, head.draft_dimension))
        return lost

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` chunks of dropped editions; how many."""
        swept = 0
        while swept < limit and (row := self._execute(DROPPED).fetchone()) is not None:
            edition, bite = Edition(*row), limit - swept
            removed = self._rows.remove_some(edition, bite)
            if removed < bite:
                self._execute(SWEPT, (edition.document, edition.number))
            swept += removed
        return swept

    # --- behind them ------------------------------------------------------------------------

    def _place(self, head: Head, tenant: str, namespace: str, document_id: str) -> int:
        """The row of the document, made where there was none, with that of its namespace."""
        if head.document is not None:
            return head.document
        shelf = head.namespace
        if shelf is None:
            self._execute(ADD_NAMESPACE, (tenant, namespace))
            shelf = self._connection.last_insert_rowid()
        self._execute(ADD_DOCUMENT, (shelf, document_id))
        return self._connection.last_insert_rowid()

    def _published(self, draft: Draft) -> StoredDocument:
        """What readers see of the draft's document."""
        document = draft.document
        published = stored_document(self._connection, document.tenant, document.namespace, document.id)
        assert published is not None, "asked for only where there is one"
        return published

    def _leave_out(self, head: Head, edition: Edition, surplus: list[int]) -> None:
        """Part with rows that shall not be seen: a few at once, many by leaving them to be swept."""
        if len(surplus) <= SWEPT_AT_ONCE:
            self._rows.remove(edition.dimension, surplus)
            return
        dropped = head.next_edition
        self._execute(TAKE_EDITION, (dropped, edition.document))
        self._rows.move(surplus, dropped)
        self._execute(DROP, (edition.document, dropped, edition.dimension))

    def _show(self, head: Head, edition: Edition, epoch: int, shown: StoredDocument) -> None:
        """Turn readers from the edition that they see now, if there is one, to this one."""
        document, metadata = shown.document, from_metadata(shown.document.source_metadata)
        facts = (document.version, epoch, document.content_hash, document.ingestion_id, metadata)
        made_by = (shown.model, shown.dimension, shown.strategy)
        counted = (shown.chunk_count, shown.complete, micros(shown.published_at))
        self._execute(SHOW, (edition.number, *facts, *made_by, *counted, edition.document))
        more = (1, shown.chunk_count)
        if head.published is not None:
            more = (0, shown.chunk_count - (head.published_chunks or 0))
            self._drop(head.edition(head.published, head.published_dimension))
        self._execute(COUNT, (*more, shown.model, shown.dimension, edition.namespace))

    def _drop(self, edition: Edition) -> None:
        """Leave an edition to be swept; a small one goes at once, so that hardly any wait for it."""
        if self._rows.remove_some(edition, SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
            self._execute(DROP, (edition.document, edition.number, edition.dimension))


def _writable(draft: Draft, head: Head) -> bool:
    """Whether there is anything left to write: not where the draft is published already."""
    if published_itself(draft, head.standing):
        return False
    check_write(draft, head.standing)
    return not is_published(draft, head.standing)
