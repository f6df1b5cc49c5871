"""Where a document stands: who holds it, what readers see of it."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

import msgspec

from perdure.domain.document import Document, Draft, StoredDocument
from perdure.domain.drafts import Standing, check_write, is_published, published_itself
from perdure.domain.record import Json


class Edition(NamedTuple):
    """Where chunks belong: the chunks of one document version, as a draft, as readers see them, or superseded."""

    document: int
    number: int


class Head(msgspec.Struct):
    """The row of a document; all that decides about a write to it. A draft's edition gets its number with its first chunk."""

    id: int
    namespace: int
    document_id: str
    last_edition: int
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
            begun=_pair(self.begun_version, self.begun_epoch),
            published=None if self.published is None else _pair(self.version, self.epoch),
            complete=bool(self.complete),
            deleted=self.deleted_version,
        )

    def serves(self, draft: Draft) -> bool:
        """Whether what was begun is what `draft` goes on with: the same version, from the same model."""
        there = (self.begun_version, self.draft_model, self.draft_dimension)
        return there == (draft.document.version, draft.model, draft.dimension)

    def writable(self, draft: Draft) -> bool:
        """Whether there is anything left to write: not where the draft is published already.

        Raises:
            StaleWrite: the draft does not hold the document.
        """
        if published_itself(draft, self.standing):
            return False
        check_write(draft, self.standing)
        return not is_published(draft, self.standing)

    def edition(self) -> Edition:
        """The draft's; numbered now if it had none."""
        if self.draft is None:
            self.last_edition += 1
            self.draft = self.last_edition
        return Edition(self.id, self.draft)

    def show(self, draft: Draft, chunk_count: int, at: datetime, *, complete: bool) -> None:
        """Let readers see the draft's edition."""
        document = draft.document
        self.published, self.draft = self.edition().number, None
        self.version, self.epoch = document.version, draft.epoch
        self.content_hash, self.ingestion_id = document.content_hash, document.ingestion_id
        self.source_metadata, self.strategy = document.source_metadata, draft.strategy
        self.model, self.dimension = draft.model, draft.dimension
        self.chunk_count, self.complete, self.published_at = chunk_count, complete, at

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
            source_metadata=seen["source_metadata"],
        )
        return StoredDocument(**{name: seen[name] for name in StoredDocument.__struct_fields__})


def _pair(version: int | None, epoch: int | None) -> tuple[int, int] | None:
    return None if version is None or epoch is None else (version, epoch)


decode_head = msgspec.json.Decoder(Head).decode
