"""The vector store port, in memory. No call waits for anything, so each is one step by itself."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime

from msgspec.structs import replace

from perdure.domain.document import Chunk, Draft, EmbeddedChunk, Namespace, StoredDocument
from perdure.domain.drafts import (
    check_begin,
    check_model,
    check_stored,
    check_write,
    is_published,
    newest_version,
    published_itself,
    shows_already,
    turn,
)
from perdure.domain.errors import StaleWrite
from perdure.domain.search import Hit, SearchQuery, matches
from perdure.domain.vector import check_query, check_vectors, required_text, required_vector
from perdure.ports.vector_store import Audit, Begun, Surplus, VectorCapabilities
from perdure.vectors.memory.copying import own_chunk, own_document, own_stored
from perdure.vectors.memory.index import Found, Row
from perdure.vectors.memory.shelf import Edition, Entry, Shelf


class MemoryVectorStore:
    """See `perdure.ports.vector_store.VectorStore`. Superseded chunks are forgotten at once; there is nothing to sweep."""

    def __init__(self) -> None:
        self._shelves: dict[tuple[str, str], Shelf] = {}

    @property
    def capabilities(self) -> VectorCapabilities:
        """Gone with the process, one process only, searches words."""
        return VectorCapabilities(durable=False, multi_process=False, full_text=True)

    async def setup(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to free: what is stored lives as long as this object."""

    # --- writing ----------------------------------------------------------------------------

    async def begin(self, draft: Draft) -> Begun:
        shelf, entry = self._open(draft.document.tenant, draft.document.namespace, draft.document.id)
        check_begin(draft, entry.standing)
        check_model(draft, shelf.model)
        resumed = entry.standing.begun is not None and entry.standing.begun[0] == draft.document.version
        if not is_published(draft, entry.standing) and (entry.draft is None or not entry.draft.serves(draft)):
            entry.draft, resumed = Edition(draft), False
        entry.begin(turn(draft))
        return Begun(published=_stored(entry.published), resumed=resumed)

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        return [await self._affirm(draft) for draft in drafts]

    async def _affirm(self, draft: Draft) -> StoredDocument | None:
        entry = self._entry(draft)
        stored = _stored(entry.published)
        if stored is None or not shows_already(stored, draft) or (entry.draft and entry.draft.chunks):
            return None
        try:
            return (await self.begin(draft)).published
        except StaleWrite:
            return None

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        check_vectors(chunks, draft.dimension)
        edition = _writable(draft, self._entry(draft))
        if edition is not None:
            edition.chunks |= _by_id(chunks)

    async def publish(
        self,
        draft: Draft,
        chunk_ids: Collection[str],
        *,
        last: Sequence[EmbeddedChunk] = (),
        complete: bool = True,
    ) -> StoredDocument:
        check_vectors(last, draft.dimension)
        shelf = self._shelf(draft.document.tenant, draft.document.namespace)
        entry = shelf.entry(draft.document.id)
        edition = _writable(draft, entry)
        if edition is not None:
            check_model(draft, shelf.model)
            stored = edition.chunks | _by_id(last)
            check_stored(draft, chunk_ids, stored)
            edition.chunks = {chunk_id: stored[chunk_id] for chunk_id in chunk_ids}
            shown = draft.published(len(edition.chunks), complete=complete, at=datetime.now(UTC))
            edition.stored = own_stored(shown)
            entry.publish(edition, turn(draft))
            shelf.changed()
        published = _stored(entry.published)
        assert published is not None, "either it was published before, or it is now"
        return published

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        shelf, entry = self._open(tenant, namespace, document_id)
        last = newest_version(entry.standing) if version is None else version
        if last is None:
            return 0
        shelf.changed()
        return entry.delete(last)

    async def sweep(self, limit: int) -> int:
        """Nothing is ever left to sweep."""
        return 0

    # --- whether it is as it should be ------------------------------------------------------

    async def audit(
        self, tenant: str, namespace: str, document_ids: Sequence[str]
    ) -> list[tuple[str, Audit]]:
        shelf = self._shelf(tenant, namespace)
        return [(document_id, _audit(shelf.entry(document_id))) for document_id in document_ids]

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        shelf = self._shelf(tenant, namespace)
        entry = shelf.entry(document_id)
        edition, audit = entry.published, _audit(entry)
        if edition is None or edition.stored is None or audit.whole:
            return audit
        edition.stored = replace(edition.stored, chunk_count=audit.chunks, complete=False)
        entry.standing = replace(entry.standing, complete=False)
        if not audit.chunks:
            entry.published, entry.standing = None, replace(entry.standing, published=None)
        shelf.changed()
        return _audit(entry)

    async def tidy(self, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
        """Chunks lie within their document, and nothing is counted: there is no surplus."""
        return Surplus()

    # --- what is stored ---------------------------------------------------------------------

    async def missing(self, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
        entry = self._entry(draft)
        published = entry.published if is_published(draft, entry.standing) else None
        held = {
            chunk_id
            for edition in (entry.draft, published)
            if edition is not None and edition.serves(draft)
            for chunk_id in edition.chunks
        }
        return set(chunk_ids) - held

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        published, wanted = self._entry(draft).published, set(chunk_hashes)
        if published is None or published.model != (draft.model, draft.dimension):
            return {}
        items = published.chunks.values()
        return {item.chunk.chunk_hash: item.vector for item in items if item.chunk.chunk_hash in wanted}

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        return _stored(self._shelf(tenant, namespace).entry(document_id).published)

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        stored = [edition.stored for edition in self._shelf(tenant, namespace).published() if edition.stored]
        page = [document for document in stored if after is None or document.document.id > after]
        return [own_stored(document) for document in page[:limit]]

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        published = self._shelf(tenant, namespace).entry(document_id).published
        chunks = [item.chunk for item in published.chunks.values()] if published else []
        chunks = sorted((chunk for chunk in chunks if chunk.chunk_index > after), key=_index)
        return [own_chunk(chunk) for chunk in chunks[:limit]]

    async def namespaces(self, tenant: str) -> list[Namespace]:
        return [
            Namespace(
                tenant=tenant,
                name=name,
                model=shelf.model[0],
                dimension=shelf.model[1],
                documents=len(shelf.published()),
                chunks=len(shelf.index.rows),
            )
            for (owner, name), shelf in sorted(self._shelves.items())
            if owner == tenant and shelf.model is not None
        ]

    # --- searching --------------------------------------------------------------------------

    async def search(self, query: SearchQuery) -> list[Hit]:
        vector = required_vector(query)
        shelf = self._shelf(query.tenant, query.namespace)
        if shelf.model is None:
            return []
        check_query(query, vector, shelf.model)
        return _hits(shelf.index.nearest(vector, _eligible(shelf.index.rows, query), query.limit))

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        text = required_text(query)
        index = self._shelf(query.tenant, query.namespace).index
        return _hits(index.containing(text, _eligible(index.rows, query), query.limit))

    # --- behind it --------------------------------------------------------------------------

    def _shelf(self, tenant: str, namespace: str) -> Shelf:
        """The namespace to look into; a blank one where there is none."""
        return self._shelves.get((tenant, namespace)) or Shelf()

    def _entry(self, draft: Draft) -> Entry:
        return self._shelf(draft.document.tenant, draft.document.namespace).entry(draft.document.id)

    def _open(self, tenant: str, namespace: str, document_id: str) -> tuple[Shelf, Entry]:
        """The document to write to, made where there was none."""
        shelf = self._shelves.setdefault((tenant, namespace), Shelf())
        return shelf, shelf.entries.setdefault(document_id, Entry())


def _writable(draft: Draft, entry: Entry) -> Edition | None:
    """The draft's edition; None where it is published already, so that nothing is left to write."""
    if published_itself(draft, entry.standing):
        return None
    check_write(draft, entry.standing)
    return None if is_published(draft, entry.standing) else entry.draft


def _audit(entry: Entry) -> Audit:
    chunks = len(entry.published.chunks) if entry.published else 0
    stored = _stored(entry.published)
    return Audit(stored=stored, deleted=entry.standing.deleted, chunks=chunks, vectors=chunks)


def _stored(edition: Edition | None) -> StoredDocument | None:
    return own_stored(edition.stored) if edition is not None and edition.stored is not None else None


def _by_id(chunks: Sequence[EmbeddedChunk]) -> dict[str, EmbeddedChunk]:
    return {item.chunk.chunk_id: replace(item, chunk=own_chunk(item.chunk)) for item in chunks}


def _index(chunk: Chunk) -> int:
    return chunk.chunk_index


def _eligible(rows: Sequence[Row], query: SearchQuery) -> list[int]:
    """Places of the rows that the query's conditions leave."""
    wanted = set(query.document_ids)
    return [
        place
        for place, (stored, chunk) in enumerate(rows)
        if (not wanted or stored.document.id in wanted)
        and (
            query.where is None or matches(query.where, {**chunk.metadata, **stored.document.source_metadata})
        )
    ]


def _hits(found: Sequence[Found]) -> list[Hit]:
    return [
        Hit.of(score, own_document(stored.document), own_chunk(chunk)) for score, (stored, chunk) in found
    ]
