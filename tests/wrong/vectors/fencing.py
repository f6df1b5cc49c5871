"""Who may write: drafts that were superseded or deleted write all the same, or the right one may not."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from msgspec.structs import replace

from perdure.domain.document import Draft, EmbeddedChunk, StoredDocument
from perdure.domain.drafts import turn
from perdure.domain.errors import StaleWrite
from perdure.ports.vector_store import Begun
from perdure.vectors.memory.shelf import Edition
from tests.wrong.vectors.base import WrongVectors


class PublishesWithoutFence(WrongVectors):
    """Whoever comes last wins."""

    caught_by = "test_a_superseded_draft_changes_nothing"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        entry = self._entry(draft)
        entry.begin(turn(draft))
        entry.draft = entry.draft or Edition(draft)
        return await super().publish(draft, chunk_ids, **rest)


class StoresWithoutFence(WrongVectors):
    """A superseded run still stores its chunks."""

    caught_by = "test_an_older_draft_cannot_be_begun"

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        try:
            await super().upsert(draft, chunks)
        except StaleWrite:
            edition = self._entry(draft).draft
            if edition is not None:
                edition.chunks |= {item.chunk.chunk_id: item for item in chunks}


class OrdersByEpochAlone(WrongVectors):
    """A newer version loses to an older one that was tried more often."""

    caught_by = "test_a_newer_version_wins_whatever_the_epochs"

    async def begin(self, draft: Draft) -> Begun:
        begun = self._entry(draft).standing.begun
        if begun is not None and draft.epoch < begun[1]:
            raise StaleWrite("an older epoch")
        return await super().begin(draft)


class ForgetsTombstones(WrongVectors):
    """Work under way brings a deleted document back."""

    caught_by = "test_work_under_way_does_not_bring_it_back"

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        lost = await super().delete(tenant, namespace, document_id, version=version)
        entry = self._shelf(tenant, namespace).entry(document_id)
        entry.standing = replace(entry.standing, deleted=None)
        return lost


class DeletesNewerVersionsToo(WrongVectors):
    """A late deletion of an old version takes the new one along."""

    caught_by = "test_a_deletion_up_to_a_version_keeps_a_newer_one"

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        return await super().delete(tenant, namespace, document_id)


class AffirmsWithoutHolding(WrongVectors):
    """An older version is published after a newer one that changed nothing."""

    caught_by = "test_what_readers_see_already_is_begun_at_once"

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        standings = [(self._entry(draft), self._entry(draft).standing) for draft in drafts]
        found = await super().affirm(drafts)
        for entry, standing in standings:
            entry.standing = standing
        return found


class AffirmsWhateverIsThere(WrongVectors):
    """Only whether the document is there is asked."""

    caught_by = "test_what_readers_do_not_see_already_is_left_alone"

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        places = [(one.document.tenant, one.document.namespace, one.document.id) for one in drafts]
        return [await self.document(*place) for place in places]


class RefusesARepeatedPublish(WrongVectors):
    """An answer that got lost cannot be asked for again."""

    caught_by = "test_publishing_again_is_the_same"

    async def publish(self, draft: Draft, chunk_ids: Collection[str], **rest: Any) -> StoredDocument:
        if self._entry(draft).standing.published == turn(draft):
            raise StaleWrite("published already")
        return await super().publish(draft, chunk_ids, **rest)
