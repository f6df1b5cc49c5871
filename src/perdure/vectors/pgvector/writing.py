"""The writes, each on the head of its document; those of many documents share one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeAlias, TypeVar
from uuid import UUID

import msgspec

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import Matching, Model, check_begin, check_model, newest_version, turn
from perdure.domain.errors import InvalidInput, ModelMismatch, PerdureError
from perdure.ports.vector_store import Audit, Begun
from perdure.vectors.pgvector.heads import Edition, Head, decode_head
from perdure.vectors.pgvector.rows import COLUMNS, HEADER, TRAILER, metadata_json, pack, uuids

if TYPE_CHECKING:
    from perdure.databases.postgres import Connection

T = TypeVar("T")

Place: TypeAlias = tuple[str, str, str]
"""tenant, namespace, document id"""

SWEPT_AT_ONCE: Final = 64
"""Chunks of a superseded edition that go with it in the same step, so that small documents leave nothing to sweep."""

MAX_DIMENSION: Final = 16_000
"""What pgvector takes."""

PIECE: Final = 256 * 1024
"""Bytes of a COPY that are sent at a time."""

STORED_IDS: Final = 5000
"""Ids of stored chunks that are looked at a time."""


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
        held: model and dimension of what readers see in the namespace; None where they see nothing.
        now: on the database's clock.
    """

    place: Place
    head: Head
    held: Model | None
    now: datetime

    def stored(self) -> StoredDocument | None:
        """What readers see of the document."""
        return self.head.stored(*self.place[:2])


class _Count:
    """By how much what readers see of a namespace grows."""

    def __init__(self) -> None:
        self.documents = self.chunks = 0
        self.model: Model | None = None

    def add(self, documents: int, chunks: int, model: Model | None = None) -> None:
        """Add to it. Raises ModelMismatch where somebody else in the transaction came with another model."""
        if model is not None and self.model not in (None, model):
            raise ModelMismatch(f"vectors of {self.model} and of {model} in one namespace; use one embedder")
        self.documents, self.chunks, self.model = (
            self.documents + documents,
            self.chunks + chunks,
            model or self.model,
        )


class Writing:
    """One transaction. What its changes decide is gathered, and written by `finish`."""

    def __init__(self, connection: Connection, queries: Mapping[str, str]) -> None:
        self._connection = connection
        self._queries = queries
        self._heads: dict[int, Head] = {}
        self._rows: list[tuple[int, Edition, Iterable[EmbeddedChunk]]] = []
        self._counts: defaultdict[int, _Count] = defaultdict(_Count)
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
        subjects = {
            row["place"] - 1: Subject(
                changes[row["place"] - 1].place,
                decode_head(row["head"]),
                (row["model"], row["dimension"]) if row["documents"] else None,
                row["now"],
            )
            for row in found
        }
        outcomes = []
        for place, change in enumerate(changes):
            nobody = Head(id=0, namespace=rows[place], document_id=change.place[2], last_edition=0)
            subject = subjects.get(place) or Subject(
                change.place, nobody, None, datetime.min.replace(tzinfo=UTC)
            )
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
        if not 1 <= draft.dimension <= MAX_DIMENSION:
            raise InvalidInput(
                f"the dimension is {draft.dimension}; pgvector stores 1 to {MAX_DIMENSION} numbers"
            )
        check_begin(draft, head.standing)
        check_model(draft, subject.held)
        metadata_json(draft.document.source_metadata)
        resumed = head.serves(draft)
        if head.draft is not None and not resumed:
            self._large.append(Edition(head.id, head.draft))
            head.draft = None
        head.begun_version, head.begun_epoch = turn(draft)
        head.draft_model, head.draft_dimension = draft.model, draft.dimension
        self._heads[head.id] = head
        return Begun(published=subject.stored(), resumed=resumed)

    async def upsert(self, subject: Subject, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """Store chunks of the draft."""
        head = subject.head
        if not head.writable(draft) or not chunks:
            return
        given = {item.chunk.chunk_id: item for item in chunks}
        if head.draft is not None:
            await self._run("remove_chunks", *head.edition(), uuids(given))
        self._rows.append((head.namespace, head.edition(), given.values()))
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
        check_model(draft, subject.held)
        given = {item.chunk.chunk_id: item for item in last}
        matching, surplus = Matching(chunk_ids, given), list[UUID]()
        if head.draft is not None:
            stored = self._connection.cursor(
                self._queries["stored_ids"], *head.edition(), prefetch=STORED_IDS
            )
            surplus = [row["chunk_id"] async for row in stored if not matching.shows(str(row["chunk_id"]))]
        matching.end(draft)
        grown = matching.count - (head.chunk_count or 0) if head.published else matching.count
        model = (draft.model, draft.dimension)
        self._counts[head.namespace].add(int(head.published is None), grown, model)
        if surplus:
            await self._run("remove_chunks", *head.edition(), surplus)
        self._drop_published(head)
        shown = [item for chunk_id, item in given.items() if chunk_id in matching.shown]
        self._rows.append((head.namespace, head.edition(), shown))
        head.show(draft, matching.count, subject.now, complete=complete)
        self._heads[head.id] = head
        return subject.stored()

    async def delete(self, subject: Subject, version: int | None) -> int:
        """Remove versions up to `version` (None: the newest known) for good; how many chunks readers lose."""
        head = subject.head
        last = newest_version(head.standing) if version is None else version
        if last is None:
            return 0
        head.deleted_version = max(last, head.deleted_version or last)
        lost = 0
        if head.published is not None and (head.version or 0) <= last:
            lost = head.chunk_count or 0
            self._counts[head.namespace].add(-1, -lost)
            self._drop_published(head)
            head.published = head.version = head.epoch = None
        if head.draft is not None and (head.begun_version or 0) <= last:
            self._large.append(Edition(head.id, head.draft))
            head.draft = None
        self._heads[head.id] = head
        return lost

    async def mend(self, subject: Subject) -> Audit:
        """Let the head say what lies there."""
        head, stored = subject.head, subject.stored()
        if head.published is None or stored is None:
            return Audit(deleted=head.deleted_version)
        [(chunks,)] = await self._run("count_chunks", head.id, head.published)
        if chunks != stored.chunk_count:
            self._counts[head.namespace].add(-int(not chunks), chunks - stored.chunk_count)
            head.chunk_count, head.complete = chunks, False
            if not chunks:
                head.published = head.version = head.epoch = None
            self._heads[head.id] = head
        return Audit(stored=subject.stored(), deleted=head.deleted_version, chunks=chunks, vectors=chunks)

    # --- behind them ------------------------------------------------------------------------------

    def _drop_published(self, head: Head) -> None:
        """Leave what readers saw to be swept; if it is small it goes at once."""
        if head.published is not None:
            small = (head.chunk_count or 0) <= SWEPT_AT_ONCE
            (self._small if small else self._large).append(Edition(head.id, head.published))

    async def _finish(self) -> None:
        """Write what was gathered."""
        if any(items for _, _, items in self._rows):
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
        if self._counts:
            await self._count()

    async def _count(self) -> None:
        counts = self._counts.values()
        models = [count.model or (None, None) for count in counts]
        counted = await self._run(
            "count",
            list(self._counts),
            [count.documents for count in counts],
            [count.chunks for count in counts],
            [model for model, _ in models],
            [dimension for _, dimension in models],
        )
        if len(counted) < len(self._counts):
            raise ModelMismatch(
                "the namespace was filled with another model's vectors meanwhile; use the same embedder, or another "
                "namespace"
            )

    async def _run(self, name: str, *values: object) -> list[Any]:
        return await self._connection.fetch(self._queries[name], *values)


async def _stream(rows: Iterable[tuple[int, Edition, Iterable[EmbeddedChunk]]]) -> AsyncIterator[bytes]:
    held = bytearray(HEADER)
    for namespace, edition, items in rows:
        for part in pack(namespace, edition, items):
            held += part
            if len(held) >= PIECE:
                yield bytes(held)
                held.clear()
    yield bytes(held) + TRAILER
