"""The writes, each on the head of its document; those of many documents share one transaction."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar
from uuid import UUID

import msgspec

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import Matching, check_model
from perdure.domain.errors import InvalidInput, ModelMismatch, PerdureError
from perdure.domain.heads import Edition, Head, Place, Shelf
from perdure.ports.vector_store import Audit, Begun
from perdure.vectors.pgvector.rows import COLUMNS, HEADER, TRAILER, decode_head, metadata_json, pack, uuids

if TYPE_CHECKING:
    from perdure.databases.postgres import Connection

T = TypeVar("T")

SWEPT_AT_ONCE: Final = 64
"""Chunks of a superseded edition that go with it in the same step, so that small documents leave nothing to sweep."""

MAX_DIMENSION: Final = 16_000
"""What pgvector takes."""

PIECE: Final = 256 * 1024
"""Bytes of a COPY that are sent at a time."""

NEVER: Final = datetime.min.replace(tzinfo=UTC)

STORED_IDS: Final = 5000
"""Ids of stored chunks that are looked at a time."""


def check_storable(draft: Draft) -> None:
    """Whether PostgreSQL can store it.

    Raises:
        InvalidInput: its dimension, or its metadata, is beyond that.
    """
    if not 1 <= draft.dimension <= MAX_DIMENSION:
        raise InvalidInput(
            f"the dimension is {draft.dimension}; pgvector stores 1 to {MAX_DIMENSION} numbers"
        )
    metadata_json(draft.document.source_metadata)


class Change(NamedTuple, Generic[T]):
    """A write to one document.

    Attributes:
        weight: how many chunks it writes, about.
        creates: whether it makes the document's row where there is none.
    """

    place: Place
    work: Callable[[Writing, Subject], Awaitable[T]]
    weight: int = 1
    creates: bool = False


class Subject(NamedTuple):
    """What a change is done to.

    Attributes:
        now: on the database's clock.
    """

    place: Place
    head: Head
    shelf: Shelf
    now: datetime

    def stored(self) -> StoredDocument | None:
        """What readers see of the document."""
        return self.head.stored(*self.place[:2])


class Writing:
    """One transaction. What its changes decide is gathered, and written by `finish`."""

    def __init__(self, connection: Connection, queries: Mapping[str, str]) -> None:
        self._connection = connection
        self._queries = queries
        self._heads: dict[int, Head] = {}
        self._rows: list[tuple[Edition, Iterable[EmbeddedChunk]]] = []
        self._shelves: dict[int, Shelf] = {}
        self._small: list[Edition] = []
        self._large: list[Edition] = []

    async def perform(
        self, changes: Sequence[Change[Any]], namespaces: Mapping[tuple[str, str], int]
    ) -> list[Any]:
        """Do changes of different documents; for each its result, or the refusal that changed nothing of it.

        Args:
            namespaces: (tenant, name) → its row; all that the changes name.
        """
        rows = [namespaces[change.place[:2]] for change in changes]
        new = [place for place, change in enumerate(changes) if change.creates]
        if new:
            names = [changes[place].place[2] for place in new]
            await self._run("add_documents", [rows[place] for place in new], names)
        found = await self._run("lock_heads", rows, [change.place[2] for change in changes])
        heads = {row["place"] - 1: row for row in found}
        outcomes = []
        for place, change in enumerate(changes):
            subject = self._subject(change.place, rows[place], heads.get(place))
            try:
                outcomes.append(await change.work(self, subject))
            except PerdureError as refusal:
                outcomes.append(refusal)
        await self._finish()
        return outcomes

    # --- the changes: each refuses before it changes anything -------------------------------------

    async def begin(self, subject: Subject, draft: Draft) -> Begun:
        """Let the draft hold its document."""
        head = subject.head
        resumed = head.serves(draft)
        self._drop(head.begin(draft, subject.shelf.held))
        self._heads[head.id] = head
        return Begun(published=subject.stored(), resumed=resumed)

    async def upsert(self, subject: Subject, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """Store chunks of the draft."""
        head = subject.head
        if not head.writable(draft) or not chunks:
            return
        given = {item.chunk.chunk_id: item for item in chunks}
        if head.draft is not None:
            await self._remove(head.edition(draft), uuids(given))
        self._rows.append((head.edition(draft), given.values()))
        self._heads[head.id] = head

    async def publish(
        self,
        subject: Subject,
        draft: Draft,
        chunk_ids: Collection[str],
        last: Sequence[EmbeddedChunk],
        *,
        complete: bool,
    ) -> StoredDocument | None:
        """Let readers see exactly these chunks of the draft."""
        head = subject.head
        if not head.writable(draft):
            return subject.stored()
        check_model(draft, subject.shelf.held)
        given = {item.chunk.chunk_id: item for item in last}
        matching, surplus = Matching(chunk_ids, given), list[UUID]()
        if head.draft is not None:
            edition = head.edition(draft)
            stored = self._connection.cursor(
                self._queries["stored_ids"], edition.document, edition.number, prefetch=STORED_IDS
            )
            surplus = [row["chunk_id"] async for row in stored if not matching.shows(str(row["chunk_id"]))]
        matching.end(draft)
        if surplus:
            await self._remove(head.edition(draft), surplus)
        shown = [item for chunk_id, item in given.items() if chunk_id in matching.shown]
        self._rows.append((head.edition(draft), shown))
        self._drop(head.show(draft, matching.count, subject.now, subject.shelf, complete=complete))
        self._heads[head.id] = head
        return subject.stored()

    async def delete(self, subject: Subject, version: int | None) -> int:
        """Remove versions up to `version` (None: the newest known) for good; how many chunks readers lose."""
        head = subject.head
        lost, gone = head.bury(version, subject.shelf)
        for edition in gone:
            self._drop(edition)
        self._heads[head.id] = head
        return lost

    async def mend(self, subject: Subject) -> Audit:
        """Let the head say what lies there."""
        head, stored = subject.head, subject.stored()
        if head.published is None or stored is None:
            return Audit(deleted=head.deleted_version)
        [(chunks,)] = await self._run("count_chunks", head.id, head.published)
        if chunks != stored.chunk_count:
            head.correct(chunks, subject.shelf)
            self._heads[head.id] = head
        return Audit(stored=subject.stored(), deleted=head.deleted_version, chunks=chunks, vectors=chunks)

    # --- behind them ------------------------------------------------------------------------------

    def _subject(self, place: Place, namespace: int, found: Mapping[str, Any] | None) -> Subject:
        if found is None:
            return Subject(place, Head(document_id=place[2], namespace=namespace), Shelf(namespace), NEVER)
        shelf = self._shelves.setdefault(
            namespace, Shelf(namespace, found["documents"], found["model"], found["dimension"])
        )
        return Subject(place, decode_head(found["head"]), shelf, found["now"])

    async def _remove(self, edition: Edition, chunk_ids: Sequence[UUID]) -> None:
        await self._run("remove_chunks", edition.document, edition.number, chunk_ids)

    def _drop(self, edition: Edition | None) -> None:
        """Leave an edition to be swept; one that is known to be small goes at once."""
        if edition is not None:
            small = edition.chunks is not None and edition.chunks <= SWEPT_AT_ONCE
            (self._small if small else self._large).append(edition)

    async def _finish(self) -> None:
        """Write what was gathered."""
        if any(items for _, items in self._rows):
            await self._connection.copy_to_table(
                "perdure_vector_chunks", source=_stream(self._rows), columns=COLUMNS, format="binary"
            )
        for name, editions in (("remove_editions", self._small), ("drop_editions", self._large)):
            if editions:
                await self._run(
                    name, [each.document for each in editions], [each.number for each in editions]
                )
        if self._heads:
            heads = msgspec.json.encode(list(self._heads.values())).decode()
            await self._run("save_heads", heads, list(self._heads))
        grown = [shelf for shelf in self._shelves.values() if shelf.shown or shelf.grown != (0, 0)]
        if grown:
            await self._count(grown)

    async def _count(self, shelves: Sequence[Shelf]) -> None:
        models = [shelf.shown or (None, None) for shelf in shelves]
        counted = await self._run(
            "count",
            [shelf.id for shelf in shelves],
            [shelf.grown[0] for shelf in shelves],
            [shelf.grown[1] for shelf in shelves],
            [model for model, _ in models],
            [dimension for _, dimension in models],
        )
        if len(counted) < len(shelves):
            raise ModelMismatch(
                "the namespace was filled with another model's vectors meanwhile; use the same embedder, or another "
                "namespace"
            )

    async def _run(self, name: str, *values: object) -> list[Any]:
        return await self._connection.fetch(self._queries[name], *values)


async def _stream(rows: Iterable[tuple[Edition, Iterable[EmbeddedChunk]]]) -> AsyncIterator[bytes]:
    held = bytearray(HEADER)
    for edition, items in rows:
        for part in pack(edition, items):
            held += part
            if len(held) >= PIECE:
                yield bytes(held)
                held.clear()
    yield bytes(held) + TRAILER
