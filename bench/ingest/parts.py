"""What the pipeline benchmarks share: real texts, and parts that cost nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from pydoc_data import topics
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.document import Draft, StoredDocument
from perdure.parsers import default_parsers
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.pipeline.vectorize import Target, Vectorizer
from perdure.ports.embedder import Embedder, Purpose
from perdure.ports.vector_store import Begun

DOCUMENT = 4096


def language_reference() -> str:
    """Python's own: on every machine, half a megabyte of prose and code."""
    return "\n\n".join(f"{name}\n{'=' * len(name)}\n\n{text}" for name, text in sorted(topics.topics.items()))


def documents(count: int, size: int = DOCUMENT) -> list[bytes]:
    """Cut the reference into texts of about `size` characters, each a little different from all others."""
    text = language_reference()
    places = range(0, len(text) - size, size)
    return [
        f"Document {number}\n\n{text[places[number % len(places)] :][:size]}".encode()
        for number in range(count)
    ]


class Quiet:
    """A run that nobody watches."""

    epoch = 1

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        pass

    def check(self) -> None:
        pass


class Nowhere:
    """A vector store that keeps nothing: only what `vectorize` calls for a fresh document."""

    async def begin(self, draft: Draft) -> Begun:
        return Begun(published=None, resumed=False)

    async def upsert(self, draft: Draft, chunks: Sequence[Any]) -> None:
        pass

    async def publish(
        self, draft: Draft, chunk_ids: Collection[str], *, last: Sequence[Any] = (), complete: bool = True
    ) -> StoredDocument:
        return StoredDocument(
            document=draft.document,
            model=draft.model,
            dimension=draft.dimension,
            strategy=draft.strategy,
            chunk_count=len(chunk_ids),
            complete=complete,
            published_at=datetime.now(UTC),
        )


class Free:
    """A model that answers at once, always the same."""

    model = "free"
    dimension = 256
    max_batch = 256
    paid = False

    def __init__(self) -> None:
        self._vectors = np.zeros((self.max_batch, self.dimension), dtype=np.float32)
        self._vectors[:, 0] = 1

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        return self._vectors[: len(texts)]

    async def close(self) -> None:
        pass


def make_vectorizer(embedder: Embedder, **batching: Any) -> Vectorizer:
    """The whole pipeline over a store that keeps nothing."""
    store: Any = Nowhere()
    return Vectorizer(store, EmbeddingBatcher(embedder, **batching), default_parsers(), RecursiveChunker())


def target(document_id: str) -> Target:
    return Target(
        tenant="default", namespace="default", document_id=document_id, version=1, ingestion_id="bench"
    )
