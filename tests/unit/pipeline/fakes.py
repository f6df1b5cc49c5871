"""Stand-ins for pipeline tests: a run, an embedder and a vector store that do as they are told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.document import Chunk
from perdure.domain.errors import LeaseLost, TextRejected
from perdure.embedders.hashing import HashingEmbedder
from perdure.parsers import default_parsers
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.pipeline.source import Source, bytes_source
from perdure.pipeline.vectorize import Target, Vectorizer, VectorizeResult
from perdure.ports.embedder import Purpose
from perdure.ports.vector_store import VectorStore

CAPACITY = 60
"""Most characters of a chunk in these tests."""


class FakeRun:
    """A run that goes on until `lost` is set, or `check` was asked more than `checks` times."""

    def __init__(self, epoch: int = 1, checks: int = 10**9) -> None:
        self.epoch = epoch
        self.checks = checks
        self.reports: list[tuple[float | None, str, dict[str, int]]] = []

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        self.reports.append((fraction, message, counts))

    def check(self) -> None:
        self.checks -= 1
        if self.checks < 0:
            raise LeaseLost("the lease is gone")


class FakeEmbedder:
    """Hashes words, notes every batch, and fails as scripted.

    Attributes:
        poison: texts that hold this word are rejected, with everything in their batch.
        errors: raised by the next calls, one each; None lets one pass.
        gate: while it is closed, calls wait.
        batches: the texts of every call that answered.
    """

    def __init__(self, max_batch: int = 4, dimension: int = 8) -> None:
        self.max_batch = max_batch
        self.dimension = dimension
        self.model = "fake"
        self.poison: str | None = None
        self.poison_error: type[Exception] = TextRejected
        self.errors: list[Exception | None] = []
        self.batches: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.under_way = 0
        self.most_under_way = 0
        self._hashing = HashingEmbedder(dimension)

    @property
    def texts(self) -> list[str]:
        """All that was embedded, in order."""
        return [text for batch in self.batches for text in batch]

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        assert 0 < len(texts) <= self.max_batch
        assert all(texts)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.gate.wait()
            error = self.errors.pop(0) if self.errors else None
            if error is not None:
                raise error
            if self.poison is not None and any(self.poison in text for text in texts):
                raise self.poison_error("the model will not take this")
            self.batches.append(list(texts))
            return await self._hashing.embed(texts, purpose)
        finally:
            self.under_way -= 1

    async def close(self) -> None:
        pass


class Watched:
    """A vector store in front of another that lets `around` decide what each call does."""

    def __init__(
        self, store: VectorStore, around: Callable[[str, Callable[[], Awaitable[Any]]], Awaitable[Any]]
    ) -> None:
        self._store = store
        self._around = around

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if not asyncio.iscoroutinefunction(method):
            return method

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await self._around(name, lambda: method(*args, **kwargs))

        return call


def recording(store: VectorStore, calls: list[str]) -> Any:
    """Note the name of each call."""

    async def around(name: str, call: Callable[[], Awaitable[Any]]) -> Any:
        calls.append(name)
        return await call()

    return Watched(store, around)


def target(version: int = 1, document_id: str = "doc", **source_metadata: Any) -> Target:
    return Target(
        tenant="default",
        namespace="default",
        document_id=document_id,
        version=version,
        ingestion_id=f"job-{version}",
        source_metadata=source_metadata,
    )


def numbered(*numbers: int) -> Source:
    """A text of as many paragraphs, each a chunk of its own."""
    text = "\n\n".join(
        f"This is the paragraph with the number {number:04}, and no other." for number in numbers
    )
    return bytes_source("numbers.txt", text.encode())


def vectorizer(store: Any, embedder: Any, **options: Any) -> Vectorizer:
    return Vectorizer(
        store, EmbeddingBatcher(embedder), default_parsers(), RecursiveChunker(CAPACITY), **options
    )


async def vectorize(
    store: Any, embedder: Any, source: Source, to: Target, run: FakeRun | None = None
) -> VectorizeResult:
    return await vectorizer(store, embedder).vectorize(source, to, run or FakeRun())


async def visible(store: VectorStore, document_id: str = "doc") -> list[Chunk]:
    """The chunks that readers see."""
    return await store.chunks("default", "default", document_id, 100_000)


async def settle() -> None:
    """Let every task run until it waits for something that will not come by itself."""
    for _ in range(20):
        await asyncio.sleep(0)
