"""What was embedded before is not embedded again: across documents, namespaces and deletions of a tenant."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from perdure.domain.errors import StoreError
from perdure.ports.embedder import Embedder
from perdure.ports.embedding_cache import Cached, EmbeddingCache

BITE: Final = 500
log = logging.getLogger(__name__)


class Recall:
    """A cache by tenant, model (whose name says its prefix), dimension and text. Where it does not answer, all is embedded.

    Args:
        today: days since 1970.
        days: that a vector is kept after its last use.
    """

    def __init__(self, cache: EmbeddingCache, today: Callable[[], int], days: int) -> None:
        self._cache = cache
        self._today = today
        self._days = days

    async def find(self, tenant: str, embedder: Embedder, texts: Sequence[str]) -> dict[str, Cached]:
        """Those of the texts that have a vector already."""
        keys = {_key(tenant, embedder, text): text for text in texts}
        try:
            found = await self._cache.find(keys, self._today())
        except StoreError as error:
            log.warning("the cache of vectors does not answer: %s", error)
            return {}
        size = 4 * embedder.dimension
        return {keys[key]: cached for key, cached in found.items() if len(cached.vector) == size}

    async def keep(self, tenant: str, embedder: Embedder, made: Mapping[str, Cached]) -> None:
        """Keep what was embedded: text → vector."""
        try:
            if made:
                keyed = {_key(tenant, embedder, text): cached for text, cached in made.items()}
                await self._cache.keep(keyed, self._today())
        except StoreError as error:
            log.warning("the cache of vectors keeps nothing: %s", error)

    async def sweep(self) -> None:
        """Forget what was not used for long."""
        while await self._cache.sweep(self._today() - self._days, BITE) == BITE:
            pass


def _key(tenant: str, embedder: Embedder, text: str) -> str:
    told = "\0".join((tenant, embedder.model, str(embedder.dimension), text))
    return hashlib.sha256(told.encode()).hexdigest()[:40]
