"""The chunks' own records."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import Any, Final

from msgspec.structs import replace

from perdure.domain.document import Chunk, Draft, EmbeddedChunk
from perdure.vectors.pinecone.filters import tokens
from perdure.vectors.pinecone.index import MOST_HITS, Index, Item
from perdure.vectors.pinecone.names import ChunkName, Place, chunks_of, control_of, document_key, parse_chunk
from perdure.vectors.pinecone.values import chunk_metadata, packed, read_chunk

_ASKED_AT_ONCE: Final = 1000


class Chunks:
    """The records of chunks."""

    def __init__(self, index: Index) -> None:
        self._index = index

    async def store(
        self,
        place: Place,
        draft: Draft,
        edition: str,
        chunks: Sequence[EmbeddedChunk],
        whole: Sequence[ChunkName] | None = None,
    ) -> int | None:
        """Write chunks, and wait until searches and lists see them.

        Args:
            whole: the others of the edition, to be seen too.

        Returns:
            Where the log then is; None if Pinecone does not tell, or there was nothing to write.
        """
        items, texts = list[Item](), list[Item]()
        for item in {one.chunk.chunk_id: one for one in chunks}.values():
            facts: dict[str, Any] = {"edition": place.chunks(edition), "document": document_key(place.id)}
            facts |= tokens(item.chunk.metadata | draft.document.source_metadata)
            metadata, pieces = chunk_metadata(item.chunk, facts)
            name = ChunkName(document_key(place.id), edition, item.chunk.chunk_index, item.chunk.chunk_id)
            items.append(Item(name.record, metadata, item.vector))
            ids = name.pieces(place.namespace, len(pieces))
            texts += [Item(id_, {"text": text}) for id_, text in zip(ids, pieces, strict=True)]
        if texts:
            await self._index.upsert(place.control, texts)
        if items:
            lsn = await self._index.upsert(place.space, items)
        elif whole:
            # A write that changes nothing: it tells where the log is.
            same = {"edition": place.chunks(edition)}
            lsn = await self._index.touch(place.space, whole[0].record, same)
        else:
            return None
        names = {parse_chunk(item.id) for item in items} | set(whole or ())
        await self._seen(place, edition, names, lsn, listed=whole is not None)
        return lsn

    async def _seen(
        self, place: Place, edition: str, names: set[ChunkName], lsn: int | None, *, listed: bool
    ) -> None:
        where = {"edition": {"$eq": place.chunks(edition)}}
        at_least = min(len(names), MOST_HITS)

        async def by_search() -> bool | None:
            answer = await self._index.query(place.space, 1, where)
            known = answer.response_info.lsn_reconciled if answer.response_info else None
            if lsn is not None and known is not None:
                return True if known >= lsn else None
            counted = await self._index.query(place.space, at_least, where)
            return True if len(counted.matches) >= at_least else None

        async def by_list() -> bool | None:
            if listed:
                return True if names == set(await self.names(place, edition)) else None
            return True if await self._index.names(place.space, max(names).record, 1) else None

        for look in (by_search, by_list):
            await self._index.until(f"the chunks of document {place.id!r}", look)

    async def remove(self, place: Place, edition: str, names: Sequence[ChunkName]) -> None:
        """Remove chunks, and wait until lists do not see them."""
        if not names:
            return
        gone = {name.record for name in names}
        texts = list[str]()
        for record_id, record in (await self._index.fetch(place.space, gone)).items():
            _, number = read_chunk(record.metadata or {})
            texts += parse_chunk(record_id).pieces(place.namespace, number)
        await self._index.delete(place.control, texts)
        await self._index.delete(place.space, sorted(gone))

        prefix = f"{names[0].document}/{edition}/"

        async def look() -> bool | None:
            left = await self._index.names(place.space, prefix)
            return None if gone & {prefix + name for name in left} else True

        await self._index.until(f"that chunks of document {place.id!r} are gone", look)

    # --- reading ----------------------------------------------------------------------------

    async def names(self, place: Place, edition: str, limit: int | None = None) -> list[ChunkName]:
        """The chunks of an edition, by index."""
        prefix = place.chunks(edition)
        return [parse_chunk(prefix + name) for name in await self._index.names(place.space, prefix, limit)]

    async def every(self, place: Place) -> AsyncIterator[ChunkName]:
        """All chunks of a namespace, by document and edition."""
        async for page in self._index.pages(place.space, ""):
            for record_id in page:
                yield parse_chunk(record_id)

    async def beside(self, place: Place, name: ChunkName, limit: int) -> list[ChunkName]:
        """The first chunks of the edition that a chunk belongs to."""
        prefix = f"{name.document}/{name.edition}/"
        return [parse_chunk(prefix + one) for one in await self._index.names(place.space, prefix, limit)]

    async def held(self, place: Place, edition: str, chunk_ids: Sequence[str]) -> set[str]:
        """Those of `chunk_ids` that the edition has."""
        held = set[str]()
        for at in range(0, len(chunk_ids), _ASKED_AT_ONCE):
            asked = list(chunk_ids[at : at + _ASKED_AT_ONCE])
            where = _within(place, edition, "id", asked)
            answer = await self._index.query(place.space, len(asked), where)
            held |= {parse_chunk(match.id).chunk_id for match in answer.matches}
        return held

    async def vectors(
        self, place: Place, edition: str, chunk_hashes: Collection[str], dimension: int
    ) -> dict[str, bytes]:
        """The vectors that an edition has for some texts."""
        found: dict[str, bytes] = {}
        asked = list(chunk_hashes)
        for at in range(0, len(asked), _ASKED_AT_ONCE):
            where = _within(place, edition, "hash", asked[at : at + _ASKED_AT_ONCE])
            for record in await self._index.matching(place.space, where):
                found[str((record.metadata or {})["hash"])] = packed(record.values, dimension)
        return found

    async def read(self, tenant: str, namespace: str, names: Iterable[ChunkName]) -> dict[str, Chunk]:
        """Chunks with their texts: id of the record → chunk. Those that are gone are left out."""
        records = await self._index.fetch(chunks_of(tenant, namespace), [name.record for name in names])
        told = {record_id: read_chunk(record.metadata or {}) for record_id, record in records.items()}
        pieces = {id_: parse_chunk(id_).pieces(namespace, number) for id_, (_, number) in told.items()}
        texts = await self._index.fetch(control_of(tenant), [one for ids in pieces.values() for one in ids])
        chunks: dict[str, Chunk] = {}
        for record_id, (chunk, _) in told.items():
            ids = pieces[record_id]
            if texts.keys() >= set(ids):
                long = "".join(str((texts[one].metadata or {})["text"]) for one in ids)
                chunks[record_id] = replace(chunk, chunk_text=long) if ids else chunk
        return chunks


def _within(place: Place, edition: str, field: str, values: list[str]) -> dict[str, Any]:
    return {"$and": [{"edition": {"$eq": place.chunks(edition)}}, {field: {"$in": values}}]}
