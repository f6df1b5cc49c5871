"""Models that run in this process: loaded when first used, in a thread, so that the event loop stays free."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from perdure.domain.errors import InvalidInput
from perdure.ports.embedder import Metered, Purpose

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class ThreadedEmbedder(ABC):
    """What such embedders have in common."""

    max_batch: int

    def __init__(self) -> None:
        self._loading = threading.Lock()
        self._parts: Any = None

    @abstractmethod
    def load(self) -> Any:
        """Load the model."""

    @abstractmethod
    def work(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """Embed, in a thread."""

    @property
    def parts(self) -> Any:
        """What `load` gave, once."""
        with self._loading:
            if self._parts is None:
                self._parts = self.load()
            return self._parts

    async def prepare(self) -> None:  # noqa: B027 - most know all from the start
        """As `perdure.ports.embedder.MeteredEmbedder.prepare`: all is known."""

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        """As `perdure.ports.embedder.Embedder.embed`."""
        return (await self.embed_metered(texts, purpose)).vectors

    async def embed_metered(self, texts: Sequence[str], purpose: Purpose) -> Metered:
        """As `perdure.ports.embedder.MeteredEmbedder.embed_metered`."""
        if len(texts) > self.max_batch:
            raise InvalidInput(f"{len(texts)} texts in one call; expected at most {self.max_batch}")
        return await asyncio.to_thread(self.work, texts, purpose)

    async def close(self) -> None:
        """Forget the model; another call would load it again."""
        self._parts = None
