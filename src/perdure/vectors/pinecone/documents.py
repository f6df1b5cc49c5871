"""What is known of a document: its marks, and the head that readers follow."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from msgspec.structs import replace

from perdure.domain.document import Draft, StoredDocument
from perdure.domain.drafts import Model, check_model
from perdure.vectors.pinecone import marks as marking
from perdure.vectors.pinecone.index import Index, Item
from perdure.vectors.pinecone.marks import Marks
from perdure.vectors.pinecone.names import GARBAGE, Place, control_of, digest, heads_of, marks_of, space_of
from perdure.vectors.pinecone.values import Head, head_metadata, read_head


class Documents:
    """The records beside the chunks."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def marks(self, place: Place) -> Marks:
        """All that happened to the document."""
        return marking.read(await self._index.names(place.control, place.marks))

    async def marks_of(self, place: Place, key: str) -> Marks:
        """The same, of another document there, by its key."""
        return marking.read(await self._index.names(place.control, marks_of(place.namespace, key)))

    async def mark(self, place: Place, mark: str, *more: Item, **metadata: Any) -> Marks:
        """Add a mark, in one step with other records; what all come to, once it can be read."""
        await self._index.upsert(place.control, [Item(place.marks + mark, metadata), *more])

        async def look() -> Marks | None:
            marks = await self.marks(place)
            # Whoever outdid it may have removed it before it was seen.
            return marks if mark in marks.all or mark in marking.read({*marks.all, mark}).spent else None

        return await self._index.until(f"that document {place.id!r} changed", look)

    async def forget(self, place: Place, marks: Marks) -> None:
        """Remove marks that others outdo."""
        await self._index.delete(place.control, [place.marks + mark for mark in marks.spent])

    # --- what readers see -------------------------------------------------------------------

    async def head(self, place: Place) -> Head | None:
        """What readers see; None if nothing."""
        metadata = await self._index.one(place.control, place.head)
        return None if metadata is None else read_head(metadata)

    async def publish(self, place: Place, head: Head) -> Head | None:
        """Let readers see an edition, unless they should see another; what they see then."""
        before = await self.head(place)
        metadata = head_metadata(head)
        await self.mark(place, head.mark, Item(place.head, metadata), **metadata)
        await self._changed(place, before)
        return await self.settled(place)

    async def amend(self, place: Place, head: Head, stored: StoredDocument | None) -> None:
        """Say of what readers see what lies there; None: nothing, so that it can be published again."""
        mark = marking.amended(head.mark, there=stored is not None)
        told = {} if stored is None else head_metadata(replace(head, mark=mark, stored=stored))
        items = [Item(place.marks + mark, told)]
        await self._index.upsert(place.control, items + [Item(place.head, told)] * bool(told))

        async def look() -> bool | None:
            marks = await self.marks(place)
            outdone = marking.outdone(marks.all, mark)
            await self._index.delete(place.control, [place.marks + one for one in outdone])
            return True if mark in marks.all and not outdone else None

        await self._index.until(f"that document {place.id!r} was amended", look)
        await self.settled(place)

        async def shown() -> bool | None:
            seen = await self.head(place)
            return True if seen is None or seen.mark != mark or seen.stored == stored else None

        await self._index.until(f"that document {place.id!r} was amended", shown)

    async def settled(self, place: Place) -> Head | None:
        """What readers see, once it is what the marks say: a process that died, or two that wrote at once, may have left it
        otherwise."""

        async def look() -> tuple[Head | None] | None:
            marks, head = await self.marks(place), await self.head(place)
            if (head.mark if head else "") == marks.head:
                return (head,)
            if not marks.head:
                await self._index.delete(place.control, [place.head])
            elif (metadata := await self._index.one(place.control, place.marks + marks.head)) is not None:
                await self._index.upsert(place.control, [Item(place.head, metadata)])
            else:
                return None
            await self._changed(place, head)
            return None

        return (await self._index.until(f"what is published of document {place.id!r}", look))[0]

    async def _changed(self, place: Place, before: Head | None) -> None:
        async def look() -> bool | None:
            return True if (await self.head(place)) != before else None

        await self._index.until(f"what is published of document {place.id!r}", look)

    async def heads(self, tenant: str, namespace: str, keys: list[str]) -> dict[str, Head]:
        """What readers see of some documents: key → head."""
        prefix = heads_of(namespace)
        found = await self._index.fetch(control_of(tenant), [prefix + key for key in keys])
        return {name.removeprefix(prefix): read_head(one.metadata or {}) for name, one in found.items()}

    async def keys(self, tenant: str, namespace: str, limit: int | None = None) -> list[str]:
        """The keys of all documents that readers see, in order."""
        return await self._index.names(control_of(tenant), heads_of(namespace), limit)

    # --- namespaces -------------------------------------------------------------------------

    async def model(self, tenant: str, namespace: str) -> Model | None:
        """The model that the namespace was filled by last."""
        metadata = await self._index.one(control_of(tenant), space_of(namespace))
        return None if metadata is None else (metadata["model"], int(metadata["dimension"]))

    async def check_model(self, draft: Draft) -> Model | None:
        """Whether the draft's vectors may stand beside those in its namespace; the model that it was filled by last.

        Raises:
            ModelMismatch: they may not.
        """
        document = draft.document
        held = await self.model(document.tenant, document.namespace)
        if held not in (None, (draft.model, draft.dimension)) and await self.keys(
            document.tenant, document.namespace, 1
        ):
            check_model(draft, held)
        return held

    async def claim(self, draft: Draft) -> None:
        """Let the namespace belong to the draft's model."""
        place, record_id = control_of(draft.document.tenant), space_of(draft.document.namespace)
        wanted = (draft.model, draft.dimension)
        if await self.check_model(draft) == wanted:
            return
        facts = {"namespace": draft.document.namespace, "model": draft.model, "dimension": draft.dimension}
        await self._index.upsert(place, [Item(record_id, facts)])

        async def look() -> bool | None:
            return (
                True if await self.model(draft.document.tenant, draft.document.namespace) == wanted else None
            )

        await self._index.until(f"the model of namespace {draft.document.namespace!r}", look)

    # --- what is to be swept ----------------------------------------------------------------

    async def drop(self, place: Place, *editions: str) -> None:
        """Note editions that nobody will need, before that is so: `sweep` looks again."""
        items = [
            Item(
                "g/" + digest("/".join((*place, edition)), 64),
                {
                    "tenant": place.tenant,
                    "namespace": place.namespace,
                    "document": place.id,
                    "edition": edition,
                },
            )
            for edition in editions
            if edition
        ]
        await self._index.upsert(GARBAGE, items)

    async def dropped(self) -> AsyncIterator[tuple[str, Place, str]]:
        """Editions to be swept: (id, document, edition)."""
        names = await self._index.names(GARBAGE, "")
        for at in range(0, len(names), 100):
            for name, one in (await self._index.fetch(GARBAGE, names[at : at + 100])).items():
                m = one.metadata or {}
                yield name, Place(m["tenant"], m["namespace"], m["document"]), m["edition"]
