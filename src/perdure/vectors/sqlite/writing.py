"""The writes: begin, upsert, publish, delete, mend, sweep."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Final

import apsw
from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import Matching, check_begin, check_model, shows_already
from perdure.domain.errors import StaleWrite
from perdure.domain.heads import Edition, Head, Place, place_of
from perdure.ports.vector_store import Audit, Begun
from perdure.vectors.sqlite import auditing
from perdure.vectors.sqlite.chunks import ChunkRows
from perdure.vectors.sqlite.documents import Documents
from perdure.vectors.sqlite.schema import create_embeddings

DROP: Final = "INSERT INTO vector_dropped (document, edition, dimension) VALUES (?, ?, ?)"
DROPPED: Final = """
SELECT d.namespace, v.document, v.edition, v.dimension
FROM vector_dropped v JOIN vector_documents d ON d.id = v.document LIMIT 1
"""
SWEPT: Final = "DELETE FROM vector_dropped WHERE document = ? AND edition = ?"

SWEPT_AT_ONCE: Final = 64
"""Chunks of a superseded edition that go with it in the same step, so that small documents leave nothing to sweep."""


class Writing:
    """One transaction. Whoever opens it calls `finish` before it is committed; what raises leaves it to be undone.

    Args:
        places: of all documents that will be written.
    """

    def __init__(self, connection: apsw.Connection, places: Collection[Place]) -> None:
        self._connection = connection
        self._documents = Documents(connection, places)
        self._rows = ChunkRows(connection)
        self._dimensions: set[int] = set()

    def finish(self) -> apsw.Connection:
        """Write what was put off; the transaction."""
        self._documents.save()
        self._rows.flush()
        return self._connection

    def begin(self, draft: Draft) -> Begun:
        """Let the draft hold its document."""
        place = place_of(draft)
        head, held = self._documents.head(place), self._documents.shelf(place).held
        resumed, needless = head.serves(draft), head.begin(draft, held)
        if draft.dimension not in self._dimensions:
            create_embeddings(self._connection, draft.dimension)
            self._dimensions.add(draft.dimension)
        self._documents.change(place)
        self._drop(needless)
        return Begun(published=head.stored(*place[:2]), resumed=resumed)

    def affirm(self, draft: Draft) -> StoredDocument | None:
        """Let the draft hold its document, if readers see already what it would show."""
        place = place_of(draft)
        head, held = self._documents.head(place), self._documents.shelf(place).held
        stored = head.stored(*place[:2])
        if stored is None or head.draft is not None or not shows_already(stored, draft):
            return None
        try:
            check_begin(draft, head.standing)
        except StaleWrite:
            return None
        head.begin(draft, held)
        self._documents.change(place)
        return stored

    def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """Store chunks of the draft."""
        place = place_of(draft)
        head = self._documents.head(place)
        if not head.writable(draft) or not chunks:
            return
        given = {item.chunk.chunk_id: item for item in chunks}
        if head.draft is not None:
            self._rows.remove(draft.dimension, self._rows.among(head.edition(draft), given))
        self._rows.insert(head.edition(draft), given.values())
        self._documents.change(place)

    def publish(
        self, draft: Draft, chunk_ids: Collection[str], last: Sequence[EmbeddedChunk], *, complete: bool
    ) -> StoredDocument | None:
        """Let readers see exactly these chunks of the draft."""
        place = place_of(draft)
        head, shelf = self._documents.head(place), self._documents.shelf(place)
        if head.writable(draft):
            check_model(draft, shelf.held)
            given = {item.chunk.chunk_id: item for item in last}
            matching = Matching(chunk_ids, given)
            stored = () if head.draft is None else self._rows.all(head.edition(draft))
            surplus = [row for chunk_id, row in stored if not matching.shows(chunk_id)]
            matching.end(draft)
            self._leave_out(head, draft, surplus)
            shown = [item for chunk_id, item in given.items() if chunk_id in matching.shown]
            self._rows.insert(head.edition(draft), shown)
            self._drop(head.show(draft, matching.count, datetime.now(UTC), shelf, complete=complete))
            self._documents.change(place)
        return head.stored(*place[:2])

    def delete(self, place: Place, version: int | None) -> int:
        """Remove versions up to `version` (None: the newest known) for good; how many chunks readers lose."""
        head = self._documents.head(place)
        lost, gone = head.bury(version, self._documents.shelf(place))
        if head.deleted_version is not None:
            self._documents.change(place)
        for edition in gone:
            self._drop(edition)
        return lost

    def mend(self, place: Place) -> Audit:
        """Let the rows say what lies there."""
        found = auditing.audit_one(self.finish(), place)
        if found.stored is None or found.whole:
            return found
        head = self._documents.change(place)
        head.correct(found.chunks, self._documents.shelf(place))
        return replace(found, stored=head.stored(*place[:2]))

    def sweep(self, limit: int) -> int:
        """Remove up to `limit` chunks of dropped editions; how many."""
        swept = 0
        while swept < limit and (row := self._connection.execute(DROPPED).fetchone()) is not None:
            edition, bite = Edition(*row), limit - swept
            removed = self._rows.remove_some(edition, bite)
            if removed < bite:
                self._connection.execute(SWEPT, (edition.document, edition.number))
            swept += removed
        return swept

    # --- behind them ------------------------------------------------------------------------

    def _leave_out(self, head: Head, draft: Draft, surplus: list[int]) -> None:
        """Part with rows that shall not be seen: a few at once, many by leaving them to be swept."""
        if not surplus:
            return
        edition = head.edition(draft)
        if len(surplus) <= SWEPT_AT_ONCE:
            self._rows.remove(edition.dimension, surplus)
            return
        dropped = head.next_edition()
        self._rows.move(surplus, dropped)
        self._connection.execute(DROP, (edition.document, dropped, edition.dimension))

    def _drop(self, edition: Edition | None) -> None:
        """Leave an edition to be swept; a small one goes at once, so that hardly any wait for it."""
        if edition is not None and self._rows.remove_some(edition, SWEPT_AT_ONCE) == SWEPT_AT_ONCE:
            self._connection.execute(DROP, (edition.document, edition.number, edition.dimension))
