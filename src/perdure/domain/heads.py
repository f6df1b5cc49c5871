"""Where a document stands, and what a write makes of that: one row, for stores that keep rows.

An *edition* is the chunks of one document version: a draft, what readers see, or one that was superseded and waits to be swept.
Its number counts up within the document. What readers see is decided by one number in the row.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple, TypeAlias

import msgspec

from perdure.domain.document import Document, Draft, StoredDocument
from perdure.domain.drafts import (
    Model,
    Standing,
    Turn,
    check_begin,
    check_model,
    check_write,
    is_published,
    newest_version,
    published_itself,
    turn,
)
from perdure.domain.record import Json

Place: TypeAlias = tuple[str, str, str]
"""tenant, namespace, document id"""


def place_of(draft: Draft) -> Place:
    """Where the draft belongs."""
    return (draft.document.tenant, draft.document.namespace, draft.document.id)


class Edition(NamedTuple):
    """Where chunks are.

    Attributes:
        namespace, document: rows.
        number: of the edition within the document.
        dimension: of their vectors.
        chunks: how many there are, where that is known.
    """

    namespace: int
    document: int
    number: int
    dimension: int
    chunks: int | None = None


class Shelf(msgspec.Struct):
    """A namespace within one transaction: what readers see in it, and by how much that grows.

    Attributes:
        documents: how many readers see, those of this transaction among them.
        model, dimension: of what they saw before it; where there was nothing, they say nothing.
        grown: by so many documents and chunks.
        shown: model and dimension of what this transaction lets readers see.
    """

    id: int = 0
    documents: int = 0
    model: str | None = None
    dimension: int | None = None
    grown: tuple[int, int] = (0, 0)
    shown: Model | None = None

    @property
    def held(self) -> Model | None:
        """Model and dimension of what readers see; None where they see nothing."""
        if not self.documents:
            return None
        return self.shown or (self.model or "", self.dimension or 0)

    def grow(self, documents: int, chunks: int) -> None:
        """Count what came, or went."""
        self.documents += documents
        self.grown = (self.grown[0] + documents, self.grown[1] + chunks)


class Head(msgspec.Struct):
    """The row of a document; all that decides about a write to it. Every change refuses before it changes anything.

    Attributes:
        id, namespace: rows; 0 where there are none yet.
        draft: the edition of the draft that was begun last, which gets its number with its first chunk.
        published: that which readers see.
    """

    document_id: str
    id: int = 0
    namespace: int = 0
    last_edition: int = 0
    deleted_version: int | None = None
    begun_version: int | None = None
    begun_epoch: int | None = None
    draft_model: str | None = None
    draft_dimension: int | None = None
    draft: int | None = None
    published: int | None = None
    version: int | None = None
    epoch: int | None = None
    content_hash: str | None = None
    ingestion_id: str | None = None
    source_metadata: dict[str, Json] | None = None
    model: str | None = None
    dimension: int | None = None
    strategy: str | None = None
    chunk_count: int | None = None
    complete: bool | None = None
    published_at: datetime | None = None

    @property
    def standing(self) -> Standing:
        """How far the document has come."""
        return Standing(
            begun=_turn(self.begun_version, self.begun_epoch),
            published=None if self.published is None else _turn(self.version, self.epoch),
            complete=bool(self.complete),
            deleted=self.deleted_version,
        )

    def stored(self, tenant: str, namespace: str) -> StoredDocument | None:
        """What readers see."""
        if self.published is None:
            return None
        seen = msgspec.structs.asdict(self)
        seen["document"] = Document(
            tenant=tenant,
            namespace=namespace,
            id=self.document_id,
            version=seen["version"],
            content_hash=seen["content_hash"],
            ingestion_id=seen["ingestion_id"],
            source_metadata=seen["source_metadata"] or {},
        )
        return StoredDocument(**{name: seen[name] for name in StoredDocument.__struct_fields__})

    # --- what writes make of it -------------------------------------------------------------------

    def serves(self, draft: Draft) -> bool:
        """Whether what was begun is what `draft` goes on with: the same version, from the same model."""
        there = (self.begun_version, self.draft_model, self.draft_dimension)
        return there == (draft.document.version, draft.model, draft.dimension)

    def begin(self, draft: Draft, held: Model | None) -> Edition | None:
        """Let the draft hold the document; the edition that it makes needless.

        Raises:
            StaleWrite: a newer one was begun, or its version was deleted.
            ModelMismatch: its vectors may not stand beside those that are `held`.
        """
        check_begin(draft, self.standing)
        check_model(draft, held)
        needless = None if self.serves(draft) else self._drop_draft()
        self.begun_version, self.begun_epoch = turn(draft)
        self.draft_model, self.draft_dimension = draft.model, draft.dimension
        return needless

    def writable(self, draft: Draft) -> bool:
        """Whether there is anything left to write: not where the draft is published already.

        Raises:
            StaleWrite: the draft does not hold the document.
        """
        if published_itself(draft, self.standing):
            return False
        check_write(draft, self.standing)
        return not is_published(draft, self.standing)

    def edition(self, draft: Draft) -> Edition:
        """The draft's; numbered now if it had none."""
        if self.draft is None:
            self.draft = self.next_edition()
        return Edition(self.namespace, self.id, self.draft, draft.dimension)

    def next_edition(self) -> int:
        """A number that no edition has had."""
        self.last_edition += 1
        return self.last_edition

    def show(
        self, draft: Draft, chunk_count: int, at: datetime, shelf: Shelf, *, complete: bool
    ) -> Edition | None:
        """Let readers see the draft's edition; the one that they saw before."""
        seen, count = self._seen(), self.chunk_count or 0
        shelf.grow(int(seen is None), chunk_count if seen is None else chunk_count - count)
        shelf.shown = (draft.model, draft.dimension)
        document = draft.document
        self.published, self.draft = self.edition(draft).number, None
        self.version, self.epoch = turn(draft)
        self.content_hash, self.ingestion_id = document.content_hash, document.ingestion_id
        self.source_metadata, self.strategy = document.source_metadata, draft.strategy
        self.model, self.dimension = draft.model, draft.dimension
        self.chunk_count, self.complete, self.published_at = chunk_count, complete, at
        return seen

    def bury(self, version: int | None, shelf: Shelf) -> tuple[int, list[Edition]]:
        """Let no version up to this one (None: the newest known) be; how many chunks readers lose, and which editions go."""
        last = newest_version(self.standing) if version is None else version
        if last is None:
            return 0, []
        self.deleted_version = max(last, self.deleted_version or last)
        lost, gone = 0, list[Edition | None]()
        if self.published is not None and (self.version or 0) <= last:
            lost = self.chunk_count or 0
            shelf.grow(-1, -lost)
            gone.append(self._seen())
            self.published = self.version = self.epoch = None
        if (self.begun_version or 0) <= last:
            gone.append(self._drop_draft())
        return lost, [edition for edition in gone if edition is not None]

    def correct(self, chunks: int, shelf: Shelf) -> None:
        """Say that readers see so many chunks, which are not all."""
        shelf.grow(-int(not chunks), chunks - (self.chunk_count or 0))
        self.chunk_count, self.complete = chunks, False
        if not chunks:
            self.published = self.version = self.epoch = None

    def _seen(self) -> Edition | None:
        if self.published is None:
            return None
        return Edition(self.namespace, self.id, self.published, self.dimension or 0, self.chunk_count)

    def _drop_draft(self) -> Edition | None:
        if self.draft is None:
            return None
        dropped, self.draft = Edition(self.namespace, self.id, self.draft, self.draft_dimension or 0), None
        return dropped


def _turn(version: int | None, epoch: int | None) -> Turn | None:
    return None if version is None or epoch is None else (version, epoch)
