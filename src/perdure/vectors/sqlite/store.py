"""The vector store port, over an SQLite file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from perdure.databases.sqlite import MEMORY, SqliteGuest
from perdure.domain.document import Chunk, Draft, EmbeddedChunk, Namespace, StoredDocument
from perdure.domain.heads import Place, place_of
from perdure.domain.search import Hit, SearchQuery
from perdure.domain.vector import check_vectors
from perdure.ports.vector_store import Audit, Begun, Surplus, VectorCapabilities
from perdure.vectors.sqlite import auditing, reading, searching
from perdure.vectors.sqlite.batches import Batches, Change
from perdure.vectors.sqlite.documents import head_of, stored_documents
from perdure.vectors.sqlite.schema import COMPONENT, STEPS, equip
from perdure.vectors.sqlite.writing import Writing

T = TypeVar("T")

BITE: Final = 256
"""Chunks that are swept in one transaction."""


class SqliteVectorStore(SqliteGuest):
    """See `perdure.ports.vector_store.VectorStore`.

    Args:
        path: the file, which a job store may share; ":memory:" for a private one that dies with this object.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, "vector store", COMPONENT, STEPS, equip)
        self._batches: Batches | None = None

    @property
    def capabilities(self) -> VectorCapabilities:
        """All, of a file; a database in memory is this process's own."""
        on_disk = str(self._path) != MEMORY
        return VectorCapabilities(durable=on_disk, multi_process=on_disk, full_text=True)

    async def setup(self) -> None:
        await super().setup()
        self._batches = self._batches or Batches(self._opened())

    async def close(self) -> None:
        batches, self._batches = self._batches, None
        if batches is not None:
            await batches.drain()
        await super().close()

    # --- writing ----------------------------------------------------------------------------

    async def begin(self, draft: Draft) -> Begun:
        return await self._change(lambda writing: writing.begin(draft), [place_of(draft)])

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        places = [place_of(draft) for draft in drafts]
        return await self._change(
            lambda writing: [writing.affirm(draft) for draft in drafts], places, len(drafts)
        )

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        check_vectors(chunks, draft.dimension)
        await self._change(lambda writing: writing.upsert(draft, chunks), [place_of(draft)], len(chunks))

    async def publish(
        self,
        draft: Draft,
        chunk_ids: Collection[str],
        *,
        last: Sequence[EmbeddedChunk] = (),
        complete: bool = True,
    ) -> StoredDocument:
        check_vectors(last, draft.dimension)
        stored = await self._change(
            lambda writing: writing.publish(draft, chunk_ids, last, complete=complete),
            [place_of(draft)],
            1 + len(last),
        )
        assert stored is not None, "what was published is there"
        return stored

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        place = (tenant, namespace, document_id)
        return await self._change(lambda writing: writing.delete(place, version), [place])

    async def sweep(self, limit: int) -> int:
        swept = 0
        while swept < limit:
            bite = min(BITE, limit - swept)
            removed = await self._change(partial(Writing.sweep, limit=bite), weight=bite)
            swept += removed
            if removed < bite:
                break
        return swept

    # --- whether it is as it should be ------------------------------------------------------

    async def audit(
        self, tenant: str, namespace: str, document_ids: Sequence[str]
    ) -> list[tuple[str, Audit]]:
        return await self._read(
            lambda connection: auditing.audit(connection, tenant, namespace, document_ids)
        )

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        place = (tenant, namespace, document_id)
        return await self._change(lambda writing: writing.mend(place), [place])

    async def tidy(self, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
        if not remove:
            return await self._read(
                lambda connection: auditing.tidy(connection, tenant, namespace, limit, remove=False)
            )
        return await self._change(
            lambda writing: auditing.tidy(writing.finish(), tenant, namespace, limit, remove=True)
        )

    # --- reading ----------------------------------------------------------------------------

    async def missing(self, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
        return await self._read(lambda connection: reading.missing(connection, draft, chunk_ids))

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        return await self._read(lambda connection: reading.vectors(connection, draft, chunk_hashes))

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        head = await self._read(lambda connection: head_of(connection, (tenant, namespace, document_id)))
        return head.stored(tenant, namespace)

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        return await self._read(
            lambda connection: stored_documents(connection, tenant, namespace, limit, after)
        )

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        return await self._read(
            lambda connection: reading.chunks(connection, tenant, namespace, document_id, limit, after)
        )

    async def namespaces(self, tenant: str) -> list[Namespace]:
        return await self._read(lambda connection: reading.namespaces(connection, tenant))

    async def search(self, query: SearchQuery) -> list[Hit]:
        return await self._read(lambda connection: searching.search(connection, query))

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        """See the port. Of a long text the first 64 distinct words count. How rare a word is, is counted over the whole
        file, whoever's chunks hold it.
        """
        return await self._read(lambda connection: searching.search_text(connection, query))

    # --- behind it --------------------------------------------------------------------------

    async def _change(self, work: Callable[[Writing], T], places: Sequence[Place] = (), weight: int = 1) -> T:
        if self._batches is None:
            raise self._shut()
        return await self._batches.write(Change(work, places, weight))
