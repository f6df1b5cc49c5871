"""Vectors of texts that were embedded before, so that nobody pays for them twice."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple, Protocol


class Cached(NamedTuple):
    """A vector (float32, little-endian), and how many tokens the model read for it."""

    vector: bytes
    tokens: int


class EmbeddingCache(Protocol):
    """The contract. It may forget, and never gives another vector than was kept under a key. Days count from 1970."""

    async def setup(self) -> None:
        """Create what it needs. Many replicas may call it at once."""
        ...

    async def close(self) -> None:
        """Free what it holds. May be called twice."""
        ...

    async def find(self, keys: Collection[str], day: int) -> dict[str, Cached]:
        """Those of `keys` that are there, which were used on this day then."""
        ...

    async def keep(self, cached: Mapping[str, Cached], day: int) -> None:
        """Keep these, each under its key."""
        ...

    async def sweep(self, before: int, limit: int) -> int:
        """Forget up to `limit` that were not used since before this day; how many."""
        ...
