"""Blobs in this process's memory: gone with the process."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from datetime import timedelta

from perdure.blobs.pieces import recut
from perdure.domain.errors import NotFound


class MemoryBlobStore:
    """See `perdure.ports.blob_store.BlobStore`.

    Args:
        clock: seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._blobs: dict[tuple[str, str], tuple[float, list[bytes]]] = {}

    async def setup(self) -> None:
        """Nothing needs to be made."""

    async def close(self) -> None:
        """Let go of everything."""
        self._blobs.clear()

    async def write(self, tenant: str, blob_id: str, pieces: AsyncIterable[bytes]) -> int:
        whole = [piece async for piece in recut(pieces)]
        self._blobs[tenant, blob_id] = self._clock(), whole
        return sum(map(len, whole))

    async def read(self, tenant: str, blob_id: str) -> AsyncIterator[bytes]:
        if (tenant, blob_id) not in self._blobs:
            raise NotFound(f"there is no blob {blob_id!r}")
        _written, pieces = self._blobs[tenant, blob_id]
        for piece in pieces:
            yield piece

    async def delete(self, tenant: str, blob_id: str) -> bool:
        return self._blobs.pop((tenant, blob_id), None) is not None

    async def aged(self, age: timedelta) -> list[tuple[str, str]]:
        limit = self._clock() - age.total_seconds()
        return [name for name, (written, _pieces) in self._blobs.items() if written < limit]
