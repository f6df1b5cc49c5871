"""One Pinecone index: requests of the sizes that it takes, and the patience that it asks for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import unquote, urlsplit

from pinecone import AsyncIndex
from pinecone.models.vectors.responses import QueryResponse
from pinecone.models.vectors.vector import Vector

from perdure.domain.errors import InvalidInput, StoreError, StoreUnavailable
from perdure.vectors.pinecone.errors import translated
from perdure.vectors.pinecone.values import numbers, size

Seen = TypeVar("Seen")

MOST_HITS: Final = 10_000
"""Of one query."""
_REQUEST_BYTES: Final = 1_900_000
"""Of one upsert, a little below Pinecone's 2 MB."""
_REQUEST_RECORDS: Final = 1000
_NUMBER_BYTES: Final = 22
"""Most characters of a number in JSON."""
_ADDRESS_BYTES: Final = 6000
"""Of the ids in one address."""
_DELETED_AT_ONCE: Final = 1000
_PAGE: Final = 100
_AT_ONCE: Final = 8
_PAUSES: Final = (0.02, 1.0)
"""Seconds between two looks: the first, and the longest."""


class Item(NamedTuple):
    """A record to be written; without a vector it gets one that means nothing, which Pinecone wants."""

    id: str
    metadata: Mapping[str, Any]
    vector: bytes = b"\0\0\x80\x3f"


class Index:
    """One index.

    Args:
        url: ``pinecone://:KEY@HOST``, or ``pinecone+http://`` for a test server without TLS.
        patience: seconds to wait until what was written can be read.
    """

    def __init__(self, url: str, patience: float) -> None:
        parts = urlsplit(url)
        if not parts.hostname or parts.path.strip("/"):
            raise InvalidInput(
                "the Pinecone URL does not name an index's host alone; expected pinecone://HOST, the host as the console shows "
                "it: articles-a1b2c3d.svc.aped-4627-b74a.pinecone.io"
            )
        if not parts.password:
            raise InvalidInput(
                "there is no key for Pinecone; set PINECONE_API_KEY, or write pinecone://:KEY@HOST"
            )
        port = f":{parts.port}" if parts.port else ""
        self.host = f"{'http' if parts.scheme == 'pinecone+http' else 'https'}://{parts.hostname}{port}"
        self.dimension = 0
        self._key = unquote(parts.password)
        self._patience = patience
        self._client: AsyncIndex | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        """Connect, and see what index it is.

        Raises:
            StoreError: it cannot hold our vectors.
        """
        async with self._opening:
            if self._client is None:
                self._client = await self._connected()

    async def _connected(self) -> AsyncIndex:
        with translated(self.host):
            client = AsyncIndex(host=self.host, api_key=self._key)
            try:
                stats = await client.describe_index_stats()
                if (
                    stats.metric in (None, "cosine")
                    and stats.vector_type in (None, "dense")
                    and stats.dimension
                ):
                    self.dimension = stats.dimension
                    return client
            except BaseException:
                await client.close()
                raise
        await client.close()
        raise StoreError(
            f"the Pinecone index at {self.host} holds {stats.vector_type or 'dense'} vectors of dimension "
            f"{stats.dimension} compared by {stats.metric}; make one that is dense and compares by cosine, with the "
            "embedder's dimension"
        )

    async def close(self) -> None:
        """Free the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    @property
    def _index(self) -> AsyncIndex:
        if self._client is None:
            raise StoreUnavailable("the Pinecone store is not open; call setup() first")
        return self._client

    # --- writing ----------------------------------------------------------------------------

    async def upsert(self, space: str, items: Iterable[Item]) -> int | None:
        """Write records; where the log then is, None if Pinecone does not tell."""
        limit = asyncio.Semaphore(_AT_ONCE)

        async def send(batch: list[dict[str, Any]]) -> int | None:
            with translated(self.host):
                async with limit:
                    answer = await self._index.upsert(vectors=batch, namespace=space)
            return answer.response_info.lsn_committed if answer.response_info else None

        told = await asyncio.gather(*map(send, self._batches(items)))
        return max((lsn for lsn in told if lsn is not None), default=None)

    async def touch(self, space: str, record_id: str, metadata: dict[str, Any]) -> int | None:
        """Set metadata of a record; where the log then is."""
        with translated(self.host):
            answer = await self._index.update(id=record_id, set_metadata=metadata, namespace=space)
        return answer.response_info.lsn_committed if answer.response_info else None

    async def delete(self, space: str, ids: Sequence[str]) -> None:
        """Remove records, whether they are there or not."""
        for at in range(0, len(ids), _DELETED_AT_ONCE):
            with translated(self.host):
                await self._index.delete(ids=list(ids[at : at + _DELETED_AT_ONCE]), namespace=space)

    def _batches(self, items: Iterable[Item]) -> Iterator[list[dict[str, Any]]]:
        batch, bytes_ = list[dict[str, Any]](), 0
        for item in items:
            values = numbers(item.vector, self.dimension)
            given = len(item.vector) // 4
            more = (
                _NUMBER_BYTES * given
                + 4 * (self.dimension - given)
                + size(item.metadata)
                + len(item.id)
                + 100
            )
            if batch and (bytes_ + more > _REQUEST_BYTES or len(batch) == _REQUEST_RECORDS):
                yield batch
                batch, bytes_ = [], 0
            batch.append({"id": item.id, "values": values, "metadata": dict(item.metadata)})
            bytes_ += more
        if batch:
            yield batch

    # --- reading ----------------------------------------------------------------------------

    async def fetch(self, space: str, ids: Iterable[str]) -> dict[str, Vector]:
        """Read records by id; those that are not there are left out."""
        found: dict[str, Vector] = {}
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(batch: list[str]) -> None:
            with translated(self.host):
                async with limit:
                    found.update((await self._index.fetch(ids=batch, namespace=space)).vectors)

        await asyncio.gather(*map(ask, _by_length(ids)))
        return found

    async def one(self, space: str, record_id: str) -> dict[str, Any] | None:
        """The metadata of one record; None if it is not there."""
        found = (await self.fetch(space, [record_id])).get(record_id)
        return None if found is None else dict(found.metadata or {})

    async def names(self, space: str, prefix: str, limit: int | None = None) -> list[str]:
        """The ids that begin so, in order, without the prefix; `limit`: the first ones."""
        names = list[str]()
        async for page in self.pages(space, prefix, min(_PAGE, limit or _PAGE)):
            names += page
            if limit is not None and len(names) >= limit:
                break
        return names[:limit]

    async def pages(self, space: str, prefix: str, size: int = _PAGE) -> AsyncIterator[list[str]]:
        """The same, a page at a time."""
        token = None
        while True:
            with translated(self.host):
                page = await self._index.list_paginated(
                    prefix=prefix, limit=size, pagination_token=token, namespace=space
                )
            yield [one.id.removeprefix(prefix) for one in page.vectors if one.id]
            token = page.pagination.next if page.pagination else None
            if token is None:
                return

    async def query(
        self, space: str, limit: int, where: dict[str, Any] | None = None, vector: bytes = b"\0\0\x80\x3f"
    ) -> QueryResponse:
        """The ids nearest to a vector, with their scores."""
        with translated(self.host):
            return await self._index.query(
                vector=numbers(vector, self.dimension),
                top_k=min(limit, MOST_HITS),
                namespace=space,
                filter=where,
            )

    async def matching(self, space: str, where: dict[str, Any]) -> list[Vector]:
        """All records whose metadata matches."""
        found, token = list[Vector](), None
        while True:
            with translated(self.host):
                page = await self._index.fetch_by_metadata(
                    filter=where, namespace=space, limit=_PAGE, pagination_token=token
                )
            found += page.vectors.values()
            token = page.pagination.next if page.pagination else None
            if token is None:
                return found

    async def until(self, what: str, look: Callable[[], Awaitable[Seen | None]]) -> Seen:
        """Look again and again until something is seen.

        Raises:
            StoreUnavailable: it is not, for as long as our patience lasts.
        """
        loop = asyncio.get_running_loop()
        deadline, pause = loop.time() + self._patience, _PAUSES[0]
        while (seen := await look()) is None:
            if loop.time() > deadline:
                raise StoreUnavailable(
                    f"Pinecone does not show {what} after {self._patience:g} s; reads there follow writes with a delay, which "
                    "is longer than usual now. Nothing is lost: the call is safe to repeat"
                )
            await asyncio.sleep(pause)
            pause = min(2 * pause, _PAUSES[1])
        return seen


def _by_length(ids: Iterable[str]) -> Iterator[list[str]]:
    """Cut where an address would grow too long."""
    batch, bytes_ = list[str](), 0
    for one in ids:
        if batch and (bytes_ + len(one) > _ADDRESS_BYTES or len(batch) == _PAGE):
            yield batch
            batch, bytes_ = [], 0
        batch.append(one)
        bytes_ += len(one) + 10
    if batch:
        yield batch
