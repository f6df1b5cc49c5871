"""What becomes visible: half of a version, or more than was said."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.ports.vector_store import Begun
from tests.wrong.vectors.base import WrongVectors


class ShowsHalfADraft(WrongVectors):
    """Chunks are seen as soon as they are stored."""

    caught_by = "test_until_then_readers_see_the_version_before"

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        await super().upsert(draft, chunks)
        entry = self._entry(draft)
        if entry.published is not None:
            entry.published.chunks |= {item.chunk.chunk_id: item for item in chunks}
            self._shelf(draft.document.tenant, draft.document.namespace).changed()


class HidesWhileWriting(WrongVectors):
    """The old version goes when the new one is begun."""

    caught_by = "test_a_newer_draft_does_not_hide_what_is_published"

    async def begin(self, draft: Draft) -> Begun:
        begun = await super().begin(draft)
        if begun.published is not None and begun.published.document.version < draft.document.version:
            self._entry(draft).published = None
            self._shelf(draft.document.tenant, draft.document.namespace).changed()
        return begun


class PublishesWhatIsThere(WrongVectors):
    """Chunks that are not stored are left out without a word."""

    caught_by = "test_publishing_what_is_not_stored_changes_nothing"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        given = {item.chunk.chunk_id for item in rest.get("last", ())}
        absent = await self.missing(draft, list(chunk_ids)) - given
        there = [chunk_id for chunk_id in chunk_ids if chunk_id not in absent]
        return await super().publish(draft, there, **rest)


class PublishesAllThatIsThere(WrongVectors):
    """Chunks of an earlier attempt are seen too."""

    caught_by = "test_exactly_the_chunks_named_are_seen"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        edition = self._entry(draft).draft
        everything = {*chunk_ids, *(edition.chunks if edition else ())}
        return await super().publish(draft, everything, **rest)


class PublishesAnew(WrongVectors):
    """A repeated publish gives another answer."""

    caught_by = "test_publishing_again_is_the_same"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        stored = await super().publish(draft, chunk_ids, **rest)
        return replace(stored, published_at=datetime.now(UTC))


class ForgetsTheEpoch(WrongVectors):
    """What is published does not tell by which run."""

    caught_by = "test_publish_tells_what_readers_then_see"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        stored = await super().publish(draft, chunk_ids, **rest)
        return replace(stored, epoch=0)


class AppendsOnRepeat(WrongVectors):
    """A chunk that is said again is there twice."""

    caught_by = "test_a_chunk_said_again_is_overwritten"

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        edition = self._entry(draft).draft
        before = dict(edition.chunks) if edition else {}
        await super().upsert(draft, chunks)
        for item in chunks:
            if edition is not None and item.chunk.chunk_id in before:
                edition.chunks[f"{item.chunk.chunk_id} again"] = before[item.chunk.chunk_id]

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        edition = self._entry(draft).draft
        again = {f"{chunk_id} again" for chunk_id in chunk_ids} & set(edition.chunks if edition else ())
        return await super().publish(draft, {*chunk_ids, *again}, **rest)


class SweepsLiveDrafts(WrongVectors):
    """What is not published yet counts as litter."""

    caught_by = "test_a_live_draft_loses_nothing"

    async def sweep(self, limit: int) -> int:
        swept = 0
        for shelf in self._shelves.values():
            for entry in shelf.entries.values():
                while entry.draft is not None and entry.draft.chunks and swept < limit:
                    entry.draft.chunks.popitem()
                    swept += 1
        return swept
