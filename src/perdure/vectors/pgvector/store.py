"""Chunks in a PostgreSQL database that any number of processes share."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import asyncpg
from msgspec.structs import replace

from perdure.databases.postgres import (
    Connection,
    Gathering,
    PostgresDatabase,
    PostgresGuest,
    Schema,
    load_queries,
)
from perdure.domain.document import Chunk, Draft, EmbeddedChunk, Namespace, StoredDocument
from perdure.domain.drafts import turn
from perdure.domain.errors import SchemaMismatch, StoreError
from perdure.domain.heads import place_of
from perdure.domain.search import Hit, SearchQuery
from perdure.domain.vector import check_vectors
from perdure.ports.vector_store import Audit, Begun, Surplus, VectorCapabilities
from perdure.vectors.pgvector.batches import Batches
from perdure.vectors.pgvector.indexes import Index, Indexes, kind_of
from perdure.vectors.pgvector.rows import chunk_of, decode_head, encode_json, hashes, uuids, vector_of
from perdure.vectors.pgvector.searching import Searching
from perdure.vectors.pgvector.writing import Change, Writing, check_storable

T = TypeVar("T")

SCHEMA: Final = Schema(
    scripts=Path(__file__).with_name("migrations"), version_table="perdure_vectors_version", head="0001"
)
_New: TypeAlias = tuple[str, str, str, int, int, str, int]
"""A draft that may be of a new document: tenant, namespace, document id, version, epoch, model, dimension."""

OLDEST: Final = (0, 8)
"""The pgvector that can go on searching while a filter leaves too few."""


class PgvectorStore(PostgresGuest):
    """See `perdure.ports.vector_store.VectorStore`.

    A namespace that has become large gets an index (`Indexes`), by which search is approximate: the order of equals at the
    limit is then open. Below that, search is exact.

    Args:
        where: a URL, or a database that others hold too; it is closed with its last holder.
    """

    def __init__(self, where: str | PostgresDatabase) -> None:
        database = PostgresDatabase(where) if isinstance(where, str) else where
        kind_of(database.options.index)
        super().__init__(database, "vector store", SCHEMA)
        self._queries = load_queries("perdure.vectors.pgvector", "queries.sql")
        self._batches = Batches(self._perform)
        self._beginning = Gathering(self._begin_new)
        self._searching = Searching(database, self._queries)
        self._indexes = Indexes(database, self._queries)
        self._namespaces: dict[tuple[str, str], int] = {}

    @property
    def capabilities(self) -> VectorCapabilities:
        """All."""
        return VectorCapabilities(durable=True, multi_process=True, full_text=True)

    async def setup(self) -> None:
        """See the port.

        Raises:
            StoreError: the server has no pgvector, one that is too old, or this user may not create it.
            SchemaMismatch: also where the schema is older and the URL says ``migrate=off``.
        """
        [found] = await self._fetch("extension")
        check_extension(self._database.address, found)
        try:
            await super().setup()
        except StoreError as error:
            if found["version"] is None and isinstance(error.__cause__, asyncpg.InsufficientPrivilegeError):
                raise StoreError(
                    f"{self._database.address}: this user may not create the extension `vector`; let a superuser run "
                    "CREATE EXTENSION vector in this database"
                ) from error
            raise

    async def close(self) -> None:
        """See the port."""
        if not self._closed:
            await self._batches.drain()
            self._closed = True
            await self._indexes.close()
            await super().close()

    # --- writing ----------------------------------------------------------------------------------

    async def begin(self, draft: Draft) -> Begun:
        """See the port."""
        self._here()
        check_storable(draft)
        if await self._beginning.get((*place_of(draft), *turn(draft), draft.model, draft.dimension)):
            return Begun(published=None, resumed=False)
        change = Change(place_of(draft), lambda writing, subject: writing.begin(subject, draft), creates=True)
        return await self._write(change)

    async def affirm(self, drafts: Sequence[Draft]) -> list[StoredDocument | None]:
        """See the port."""
        if not drafts:
            return []
        first, documents = drafts[0], [draft.document for draft in drafts]
        rows = await self._fetch(
            "affirm",
            *place_of(first)[:2],
            *(first.model, first.dimension),
            [document.id for document in documents],
            [document.version for document in documents],
            [draft.epoch for draft in drafts],
            [document.content_hash for document in documents],
            [draft.strategy for draft in drafts],
            [encode_json(document.source_metadata).decode() for document in documents],
        )
        found = list[StoredDocument | None]([None]) * len(drafts)
        for place, version, epoch, ingestion_id, chunk_count, published_at in rows:
            draft = drafts[place - 1]
            shown = replace(draft.document, version=version, ingestion_id=ingestion_id)
            found[place - 1] = StoredDocument(
                document=shown,
                model=draft.model,
                dimension=draft.dimension,
                strategy=draft.strategy,
                chunk_count=chunk_count,
                complete=True,
                published_at=published_at,
                epoch=epoch,
            )
        return found

    async def upsert(self, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> None:
        """See the port."""
        check_vectors(chunks, draft.dimension)
        await self._write(
            Change(
                place_of(draft),
                lambda writing, subject: writing.upsert(subject, draft, chunks),
                1 + len(chunks),
            )
        )

    async def publish(
        self,
        draft: Draft,
        chunk_ids: Collection[str],
        *,
        last: Sequence[EmbeddedChunk] = (),
        complete: bool = True,
    ) -> StoredDocument:
        """See the port."""
        check_vectors(last, draft.dimension)
        shown = await self._write(
            Change(
                place_of(draft),
                lambda writing, subject: writing.publish(subject, draft, chunk_ids, last, complete=complete),
                1 + len(last),
            )
        )
        assert shown is not None, "either it was published before, or it is now"
        return shown

    async def delete(
        self, tenant: str, namespace: str, document_id: str, *, version: int | None = None
    ) -> int:
        """See the port."""
        return await self._write(
            Change(
                (tenant, namespace, document_id),
                lambda writing, subject: writing.delete(subject, version),
                creates=version is not None,
            )
        )

    async def sweep(self, limit: int) -> int:
        """See the port. Also begins to build an index where one is due."""
        self._indexes.build_what_is_due()

        async def work(connection: Connection) -> tuple[int, bool]:
            taken = await connection.fetchrow(self._queries["take_dropped"])
            if taken is None:
                return 0, False
            edition, bite = tuple(taken), limit - swept
            gone: int = await connection.fetchval(self._queries["sweep"], *edition, bite)
            if gone < bite:
                await connection.execute(self._queries["swept"], *edition)
            return gone, True

        swept, more = 0, True
        while more and swept < limit:
            gone, more = await self._here().run(work, atomic=True)
            swept += gone
        return swept

    async def build_index(self, tenant: str, namespace: str, kind: str | None = None) -> None:
        """Build the index of a namespace now, whatever its size, and wait for it; it may take minutes.

        Args:
            kind: ``hnsw``, ``ivfflat``, ``hnsw-half``, ``ivfflat-half``, or ``off`` for none; remembered for this
                namespace. None: what was chosen before, or the store's URL says.

        Raises:
            InvalidInput: there is no such kind.
            NotFound: there is no such namespace.
        """
        self._here()
        await self._indexes.build(tenant, namespace, kind)

    async def indexes(self, tenant: str, namespace: str) -> list[Index]:
        """The indexes of a namespace; while one is built, how far it is."""
        self._here()
        return await self._indexes.progress(tenant, namespace)

    # --- whether it is as it should be --------------------------------------------------------------

    async def audit(
        self, tenant: str, namespace: str, document_ids: Sequence[str]
    ) -> list[tuple[str, Audit]]:
        """See the port. A chunk and its vector are one row."""
        rows = await self._fetch("audit", tenant, namespace, list(document_ids))
        found = {}
        for row in rows:
            head, chunks = decode_head(row["head"]), row["chunks"]
            stored = head.stored(tenant, namespace)
            told = Audit(stored=stored, deleted=head.deleted_version, chunks=chunks, vectors=chunks)
            found[head.document_id] = told
        return [(document_id, found.get(document_id, Audit())) for document_id in document_ids]

    async def mend(self, tenant: str, namespace: str, document_id: str) -> Audit:
        """See the port."""
        place = (tenant, namespace, document_id)
        return await self._write(Change(place, lambda writing, subject: writing.mend(subject)))

    async def tidy(self, tenant: str, namespace: str, limit: int, *, remove: bool) -> Surplus:
        """See the port. It reads all chunks of the database."""

        async def work(connection: Connection) -> Surplus:
            rows = await connection.fetch(self._queries["find_namespaces"], [tenant], [namespace])
            if not rows:
                return Surplus()
            place = rows[0]["id"]
            strays = await connection.fetch(self._queries["strays"], place, limit)
            if remove:
                columns = [list(column) for column in zip(*strays, strict=True)] or [[], [], []]
                await connection.execute(self._queries["remove_strays"], *columns)
                # Last, for publications wait for it; and before it is counted: what is counted stays so.
                await connection.execute(self._queries["lock_namespace"], place)
            [(documents, chunks)] = await connection.fetch(self._queries["counted"], place)
            if remove:
                await connection.execute(self._queries["correct_counts"], place, documents, chunks)
            return Surplus(chunks=len(strays), miscounted=abs(documents) + abs(chunks))

        return await self._here().run(work, atomic=True)

    # --- reading ----------------------------------------------------------------------------------

    async def missing(self, draft: Draft, chunk_ids: Sequence[str]) -> set[str]:
        """See the port."""
        document = draft.document
        facts = (document.version, draft.epoch, draft.model, draft.dimension)
        rows = await self._fetch("missing", *place_of(draft), *facts, uuids(chunk_ids))
        return set(chunk_ids) - {str(row["chunk_id"]) for row in rows}

    async def vectors(self, draft: Draft, chunk_hashes: Collection[str]) -> dict[str, bytes]:
        """See the port."""
        rows = await self._fetch(
            "vectors", *place_of(draft), draft.model, draft.dimension, hashes(chunk_hashes)
        )
        return {row["chunk_hash"].hex(): vector_of(row["embedding"]) for row in rows}

    async def document(self, tenant: str, namespace: str, document_id: str) -> StoredDocument | None:
        """See the port."""
        rows = await self._fetch("document", tenant, namespace, document_id)
        return decode_head(rows[0]["head"]).stored(tenant, namespace) if rows else None

    async def documents(
        self, tenant: str, namespace: str, limit: int, after: str | None = None
    ) -> list[StoredDocument]:
        """See the port."""
        rows = await self._fetch("documents", tenant, namespace, after or "", limit)
        stored = (decode_head(row["head"]).stored(tenant, namespace) for row in rows)
        return [document for document in stored if document is not None]

    async def chunks(
        self, tenant: str, namespace: str, document_id: str, limit: int, after: int = -1
    ) -> list[Chunk]:
        """See the port."""
        rows = await self._fetch("chunks", tenant, namespace, document_id, after, limit)
        return [chunk_of(row) for row in rows]

    async def namespaces(self, tenant: str) -> list[Namespace]:
        """See the port."""
        return [Namespace(**dict(row)) for row in await self._fetch("namespaces", tenant)]

    async def search(self, query: SearchQuery) -> list[Hit]:
        """See the port."""
        self._here()
        return await self._searching.search(query)

    async def search_text(self, query: SearchQuery) -> list[Hit]:
        """See the port. Of a long text the first 64 distinct words count; those that most chunks of the database hold are
        left out where others find enough.
        """
        self._here()
        return await self._searching.search_text(query)

    # --- behind it --------------------------------------------------------------------------------

    async def _fetch(self, name: str, *values: object) -> list[Any]:
        return await self._run(self._queries[name], *values)

    async def _write(self, change: Change[T]) -> T:
        self._here()
        return await self._batches.write(change)

    async def _perform(self, changes: Sequence[Change[Any]]) -> list[Any]:
        """Do changes of different documents in one transaction."""
        await self._find_namespaces({change.place[:2] for change in changes} - self._namespaces.keys())

        async def work(connection: Connection) -> list[Any]:
            return await Writing(connection, self._queries).perform(changes, self._namespaces)

        return await self._database.run(work, atomic=True)

    async def _begin_new(self, drafts: Sequence[_New]) -> dict[_New, bool]:
        """Begin those whose documents were never heard of, and whose vectors fit into their namespaces."""
        await self._find_namespaces({draft[:2] for draft in drafts} - self._namespaces.keys())
        asked = {(self._namespaces[draft[:2]], *draft[2:]): draft for draft in drafts}
        begun = await self._fetch("begin_documents", *map(list, zip(*asked, strict=True)))
        return {asked[tuple(row)]: True for row in begun}

    async def _find_namespaces(self, unknown: set[tuple[str, str]]) -> None:
        """Learn the rows of namespaces, making those that are not there. They stay for good."""
        if unknown:
            names = ([tenant for tenant, _ in unknown], [name for _, name in unknown])
            await self._fetch("add_namespaces", *names)
            for row in await self._fetch("find_namespaces", *names):
                self._namespaces[row["tenant"], row["name"]] = row["id"]


def check_extension(at: str, found: Mapping[str, Any]) -> None:
    """Whether the server at `at` has a pgvector that will do, by what the statement `extension` found.

    Raises:
        StoreError: it has none.
        SchemaMismatch: it has one that is too old, or lies out of reach.
    """
    remedy = "or name another place for the vectors (PERDURE_VECTORS)"
    if found["version"] is None and found["available"] is None:
        raise StoreError(
            f"{at} has no pgvector: install it on the server (on Debian the package postgresql-NN-pgvector), {remedy}"
        )
    version = found["version"] or found["available"]
    if tuple(map(int, version.split(".")[:2])) < OLDEST:
        raise SchemaMismatch(
            f"{at} has pgvector {version}, this Perdure needs {OLDEST[0]}.{OLDEST[1]} or newer: install a newer one on "
            f"the server, then run ALTER EXTENSION vector UPDATE in this database, {remedy}"
        )
    if found["version"] is not None and not found["at_hand"]:
        raise SchemaMismatch(
            f"{at} has pgvector in the schema {found['place']!r}, which is not on the search_path; add it there"
        )
