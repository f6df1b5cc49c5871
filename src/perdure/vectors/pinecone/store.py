"""The vector store port on Pinecone; see docs/decisions on how a version becomes visible there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from perdure.domain.document import Chunk, Draft, EmbeddedChunk, Namespace, StoredDocument
from perdure.domain.drafts import (
    check_begin,
    check_stored,
    check_write,
    is_published,
    newest_version,
    published_itself,
    turn,
)
from perdure.domain.errors import InvalidInput, ModelMismatch, StaleWrite
from perdure.domain.search import Hit, SearchQuery
from perdure.domain.vector import check_vectors
from perdure.ports.vector_store import Audit, Begun, Surplus, VectorCapabilities
from perdure.vectors.pinecone import marks as marking
from perdure.vectors.pinecone.chunks import Chunks
from perdure.vectors.pinecone.documents import Documents
from perdure.vectors.pinecone.index import Index
from perdure.vectors.pinecone.marks import Marks
from perdure.vectors.pinecone.names import (
    GARBAGE,
    ChunkName,
    Place,
    control_of,
    document_key,
    place_of,
    serves,
)
from perdure.vectors.pinecone.searching import Search
from perdure.vectors.pinecone.values import Head, head_metadata

log = logging.getLogger(__name__)

PATIENCE = 60.0
"""Seconds to wait until Pinecone shows what was written."""


class PineconeVectorStore:
    """See `perdure.ports.vector_store.VectorStore`.

    Args:
        url: ``pinecone://:KEY@HOST`` of a dense index that compares by cosine. Vectors shorter than its dimension are filled up
            with zeros, which changes no cosine.
        patience: seconds to wait until Pinecone shows what was written.
    """

    def __init__(self, url: str, patience: float = PATIENCE) -> None:
        self._index = Index(url, patience)
        self._documents = Documents(self._index)
        self._chunks = Chunks(self._index)
        self._warned = False

    @property
    def capabilities(self) -> VectorCapabilities:
        """Durable, shared by all processes; no search by words."""
        return VectorCapabilities(durable=True, multi_process=True, full_text=False, affirms=False)

    async def setup(self) -> None:
        """See the port. The index itself is made in Pinecone's console, or by its own tools."""
        await self._index.open()

    async def close(self) -> None:
        await self._index.close()

    # --- writing ----------------------------------------------------------------------------

    async def begin(self, draft: Draft) -> Begun:
        self._check_dimension(draft)
        place = place_of(draft.document)
        marks = await self._documents.marks(place)
        check_begin(draft, marks.standing)
        await self._documents.check_model(draft)
        begun = marks.standing.begun
        resumed = begun is not None and begun[0] == draft.document.version
        edition = ""
        if not is_published(draft, marks.standing):
            resumed = resumed and bool(marks.draft) and serves(marks.draft, draft)
            edition = marks.draft if resumed else marking.new_edition(draft, marks.number + 1)
        if (begun, marks.draft) != (turn(draft), edition):
            if marks.draft != edition:
                await self._documents.drop(place, marks.draft)
            marks = await self._documents.mark(place, marking.began(draft, edition, marks.number + 1))
            check_begin(draft, marks.standing)
        # Also where nothing is to be done: whoever published may have died before readers saw it.
        head = await self._documents.settled(place) if marks.head else None
        return Begun(published=head.stored if head else None, resumed=resumed)

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        """See the port: each would take several requests, so none is looked for."""
        return [None] * len(drafts)

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        check_vectors(chunks, draft.dimension)
        place = place_of(draft.document)
        edition = _writable(draft, await self._documents.marks(place))
        if edition and chunks:
            await self._chunks.store(place, draft, edition, chunks)

    async def publish(
        self,
        draft: Draft,
        chunk_ids: Collection[str],
        *,
        last: Sequence[EmbeddedChunk] = (),
        complete: bool = True,
    ) -> StoredDocument:
        check_vectors(last, draft.dimension)
        place = place_of(draft.document)
        marks = await self._documents.marks(place)
        edition = _writable(draft, marks)
        if edition:
            head = await self._publish(place, draft, marks, set(chunk_ids), last, complete)
        else:
            head = await self._documents.settled(place)
        if head is None:
            raise StaleWrite(f"document {place.id!r} was deleted meanwhile; submit it again to bring it back")
        return head.stored

    async def _publish(
        self,
        place: Place,
        draft: Draft,
        marks: Marks,
        wanted: set[str],
        last: Sequence[EmbeddedChunk],
        complete: bool,
    ) -> Head | None:
        edition = marks.draft
        await self._documents.check_model(draft)
        held = {name.chunk_id: name for name in await self._chunks.names(place, edition)}
        check_stored(draft, wanted, held.keys() | {item.chunk.chunk_id for item in last})
        stored = draft.published(len(wanted), complete=complete, at=datetime.now(UTC))
        mark = marking.published(draft, edition, complete=complete)
        head = Head(mark=mark, edition=edition, stored=stored, lsn=None)
        head_metadata(head)  # what Pinecone will not hold is refused before anything is done
        unwanted = [name for chunk_id, name in held.items() if chunk_id not in wanted]
        await self._chunks.remove(place, edition, unwanted)
        new = [item for item in last if item.chunk.chunk_id in wanted]
        whole = [name for chunk_id, name in held.items() if chunk_id in wanted]
        lsn = await self._chunks.store(place, draft, edition, new, whole)
        await self._documents.claim(draft)
        await self._documents.drop(place, marks.published)
        # All this waited for Pinecone: a newer run may have begun.
        check_write(draft, (await self._documents.marks(place)).standing)
        seen = await self._documents.publish(place, replace(head, lsn=lsn))
        await self._documents.forget(place, await self._documents.marks(place))
        return seen

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        place = Place(tenant, namespace, document_id)
        marks = await self._documents.marks(place)
        standing = marks.standing
        last = newest_version(standing) if version is None else version
        if last is None:
            return 0
        head = await self._documents.head(place)
        await self._documents.drop(place, *marks.editions)
        if standing.deleted is None or standing.deleted < last:
            marks = await self._documents.mark(place, marking.deleted(last))
        await self._documents.settled(place)
        await self._documents.forget(place, marks)
        return head.stored.chunk_count if head and head.stored.document.version <= last else 0

    async def sweep(self, limit: int) -> int:
        swept = 0
        async for record_id, place, edition in self._documents.dropped():
            if swept >= limit:
                break
            if edition in (await self._documents.marks(place)).editions:
                continue  # whoever meant to outdo it did not come to it
            names = await self._chunks.names(place, edition, limit - swept)
            await self._chunks.remove(place, edition, names)
            swept += len(names)
            if swept < limit:
                await self._index.delete(GARBAGE, [record_id])
        return swept

    # --- whether it is as it should be ------------------------------------------------------

    async def audit(
        self, tenant: str, namespace: str, document_ids: Sequence[str]
    ) -> list[tuple[str, Audit]]:
        """See the port. A chunk and its vector are one record."""
        places = [Place(tenant, namespace, document_id) for document_id in document_ids]
        audits = await asyncio.gather(*(self._audit(place) for place in places))
        return list(zip(document_ids, audits, strict=True))

    async def _audit(self, place: Place) -> Audit:
        while True:
            marks, head = await self._documents.marks(place), await self._documents.head(place)
            chunks = len(await self._chunks.names(place, head.edition)) if head else 0
            if (await self._documents.marks(place), await self._documents.head(place)) == (marks, head):
                return Audit(
                    stored=head.stored if head else None,
                    deleted=marks.standing.deleted,
                    chunks=chunks,
                    vectors=chunks,
                    settled=(head.mark if head else "") == marks.head,
                )

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        place = Place(tenant, namespace, document_id)
        head = await self._documents.settled(place)
        audit = await self._audit(place)
        if head is None or audit.stored != head.stored or audit.whole:
            return audit
        left = replace(head.stored, chunk_count=audit.chunks, complete=False) if audit.chunks else None
        await self._documents.amend(place, head, left)
        return await self._audit(place)

    async def tidy(self, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
        """See the port. It lists all chunks of the namespace; nothing is counted there."""
        place, found, seen = Place(tenant, namespace, ""), 0, ("", "")
        async for name in self._chunks.every(place):
            if seen == (seen := (name.document, name.edition)):
                continue
            strays = await self._strays(place, name, limit - found)
            found += len(strays)
            if remove:
                await self._chunks.remove(place, name.edition, strays)
            if found == limit:
                break
        return Surplus(chunks=found)

    async def _strays(self, place: Place, name: ChunkName, limit: int) -> list[ChunkName]:
        """The chunks of an edition, if nobody needs it and no sweep will come for it."""
        # Only now: whoever writes chunks has seen its mark before, and an edition is noted to be swept before it is outdone.
        if name.edition in (await self._documents.marks_of(place, name.document)).editions:
            return []
        async for _, dropped, edition in self._documents.dropped():
            if dropped[:2] == place[:2] and (document_key(dropped.id), edition) == name[:2]:
                return []
        return await self._chunks.beside(place, name, limit)  # a sweep may have come meanwhile

    # --- what is stored ---------------------------------------------------------------------

    async def missing(self, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
        place = place_of(draft.document)
        marks = await self._documents.marks(place)
        editions = [marks.draft, marks.published if is_published(draft, marks.standing) else ""]
        held = [
            await self._chunks.held(place, edition, chunk_ids)
            for edition in editions
            if edition and serves(edition, draft)
        ]
        return set(chunk_ids).difference(*held)

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        place = place_of(draft.document)
        head = await self._documents.head(place)
        if head is None or (head.stored.model, head.stored.dimension) != (draft.model, draft.dimension):
            return {}
        return await self._chunks.vectors(place, head.edition, list(chunk_hashes), draft.dimension)

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        head = await self._documents.head(Place(tenant, namespace, document_id))
        return head.stored if head else None

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        """See the port. Ids of more than 150 bytes that begin alike come in an order of their own."""
        keys = await self._documents.keys(tenant, namespace)
        page = [key for key in keys if after is None or key > document_key(after)][:limit]
        heads = await self._documents.heads(tenant, namespace, page)
        return [heads[key].stored for key in page if key in heads]

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        place = Place(tenant, namespace, document_id)
        while head := await self._documents.head(place):
            names = [name for name in await self._chunks.names(place, head.edition) if name.position > after][
                :limit
            ]
            found = await self._chunks.read(tenant, namespace, names)
            if await self._documents.head(place) == head:
                return [found[name.record] for name in names if name.record in found]
        return []

    async def namespaces(self, tenant: str) -> list[Namespace]:
        """See the port. It reads of every document what readers see of it: a call for people, not for each request."""
        spaces = await self._index.names(control_of(tenant), "n/")
        records = await self._index.fetch(control_of(tenant), ["n/" + space for space in spaces])
        names = [str((record.metadata or {})["namespace"]) for record in records.values()]
        told = await asyncio.gather(*(self._namespace(tenant, name) for name in sorted(names)))
        return [one for one in told if one is not None]

    async def _namespace(self, tenant: str, name: str) -> Namespace | None:
        keys = await self._documents.keys(tenant, name)
        heads = list((await self._documents.heads(tenant, name, keys)).values())
        if not heads:
            return None
        return Namespace(
            tenant=tenant,
            name=name,
            model=heads[0].stored.model,
            dimension=heads[0].stored.dimension,
            documents=len(heads),
            chunks=sum(head.stored.chunk_count for head in heads),
        )

    # --- searching --------------------------------------------------------------------------

    async def search(self, query: SearchQuery) -> list[Hit]:
        return await Search(self._index, self._documents, self._chunks, query).run()

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        """Pinecone's dense indexes know no words."""
        raise InvalidInput(
            "this vector store has no full text search; use mode 'vector', or keep vectors in PostgreSQL or SQLite"
        )

    def _check_dimension(self, draft: Draft) -> None:
        index = self._index
        if index.dimension and draft.dimension > index.dimension:
            raise ModelMismatch(
                f"vectors of {draft.model} have {draft.dimension} numbers, the Pinecone index at {index.host} takes "
                f"{index.dimension}; make an index of dimension {draft.dimension}, or choose another embedder"
            )
        if draft.dimension < index.dimension and not self._warned:
            self._warned = True
            log.warning(
                "vectors of %s have %d numbers, the Pinecone index has room for %d: they are filled up with zeros, which is right "
                "but takes more space than an index of their dimension",
                draft.model,
                draft.dimension,
                index.dimension,
            )


def _writable(draft: Draft, marks: Marks) -> str:
    """The edition to write to; empty where the draft is published already, so that nothing is left to write."""
    if published_itself(draft, marks.standing):
        return ""
    check_write(draft, marks.standing)
    return "" if is_published(draft, marks.standing) else marks.draft
