"""Where content waits that is too large for a job's payload: an upload, until it is embedded."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from datetime import timedelta
from typing import Protocol


class BlobStore(Protocol):
    """Pieces of bytes under (tenant, blob id)."""

    async def setup(self) -> None:
        """Create what the store needs. Many replicas may call it at once."""
        ...

    async def close(self) -> None:
        """Free what the store holds. May be called twice."""
        ...

    async def write(self, tenant: str, blob_id: str, pieces: AsyncIterable[bytes]) -> int:
        """Store the pieces in order, replacing what was there; its size in bytes. Durable and whole on return; a write
        that fails leaves nothing that can be read.
        """
        ...

    def read(self, tenant: str, blob_id: str) -> AsyncIterator[bytes]:
        """Yield the bytes in pieces of at most 1 MiB.

        Raises:
            NotFound: there is no such blob of this tenant.
        """
        ...

    async def delete(self, tenant: str, blob_id: str) -> bool:
        """Remove it; whether it was there."""
        ...

    async def aged(self, age: timedelta) -> list[tuple[str, str]]:
        """(tenant, blob id) of every blob that was written longer ago than `age`."""
        ...
