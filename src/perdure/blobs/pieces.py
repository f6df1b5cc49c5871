"""Blobs piece by piece, so that a large one neither fills memory nor keeps others from writing."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

from perdure.domain.errors import NotFound, StoreError

PIECE: Final = 1024 * 1024
"""Bytes of a stored piece; only the last one is smaller."""

ABANDONED: Final = timedelta(hours=1)
"""How long after its last piece a write is taken for dead, and its pieces are removed."""


class Piecewise(ABC):
    """The order of what is written and read, where a blob is a row and its pieces are rows of another table."""

    async def write(self, tenant: str, blob_id: str, pieces: AsyncIterable[bytes]) -> int:
        """See the port. Each piece is a transaction; the last one lets readers see the whole.

        Raises:
            StoreError: the pieces came so slowly that the write was taken for dead.
        """
        await self._sweep()
        seq = await self._begin(tenant, blob_id)
        try:
            size = number = 0
            async for piece in recut(pieces):
                await self._add_piece(seq, number, piece)
                size, number = size + len(piece), number + 1
            await self._publish(tenant, blob_id, seq)
        except BaseException:
            await asyncio.shield(self._clear(seq))  # a cancelled upload leaves nothing either
            raise
        await self._sweep()
        return size

    async def read(self, tenant: str, blob_id: str) -> AsyncIterator[bytes]:
        """See the port. Each piece is a read of its own, so that a slow reader holds nothing up.

        Raises:
            NotFound: also when the blob is deleted or replaced meanwhile.
        """
        seq = await self._find(tenant, blob_id)
        if seq is None:
            raise NotFound(f"there is no blob {blob_id!r}")
        number = 0
        while piece := await self._piece(seq, number):
            if piece[0] is None:
                return
            yield piece[0]
            number += 1
        raise NotFound(f"blob {blob_id!r} was deleted or replaced while it was read; read it again")

    async def delete(self, tenant: str, blob_id: str) -> bool:
        found = await self._retire(tenant, blob_id)
        await self._sweep()
        return found

    async def _clear(self, seq: int) -> None:
        with suppress(StoreError):  # what cannot be removed now is removed once it is `ABANDONED`
            await self._give_up(seq)
            await self._sweep()

    @abstractmethod
    async def _begin(self, tenant: str, blob_id: str) -> int: ...

    @abstractmethod
    async def _add_piece(self, seq: int, number: int, piece: bytes) -> None: ...

    @abstractmethod
    async def _publish(self, tenant: str, blob_id: str, seq: int) -> None: ...

    @abstractmethod
    async def _give_up(self, seq: int) -> None: ...

    @abstractmethod
    async def _find(self, tenant: str, blob_id: str) -> int | None: ...

    @abstractmethod
    async def _piece(self, seq: int, number: int) -> Sequence[Any] | None:
        """A row with the bytes, or None after the last piece; no row where the blob is gone."""

    @abstractmethod
    async def _retire(self, tenant: str, blob_id: str) -> bool: ...

    @abstractmethod
    async def _sweep(self) -> None:
        """Remove what nobody can read and nobody writes."""


def still_there(found: object) -> None:
    """Whether a write that goes on is not taken for dead.

    Raises:
        StoreError: it is.
    """
    if not found:
        raise StoreError(
            f"no piece came for {ABANDONED}, so that the write was taken for dead; write it again"
        )


async def recut(pieces: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """Yield the same bytes in pieces of `PIECE`, whatever they came in; holds at most one of them and one of those."""
    waiting = bytearray()
    async for piece in pieces:
        rest = memoryview(piece)
        while len(waiting) + len(rest) >= PIECE:
            room = PIECE - len(waiting)
            yield bytes(waiting) + bytes(rest[:room])
            waiting.clear()
            rest = rest[room:]
        waiting += rest
    if waiting:
        yield bytes(waiting)
