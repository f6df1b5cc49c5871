"""Where jobs and documents meet: a `vectorize` job runs the pipeline."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import msgspec

from perdure.core.context import Context
from perdure.core.generations import Generations
from perdure.core.handlers import Partial
from perdure.core.jobs import JobService
from perdure.domain.errors import (
    DocumentUnreadable,
    NotFound,
    RetryAfter,
    StaleWrite,
)
from perdure.domain.job import Job
from perdure.domain.record import Json
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.orders import FED, KIND, Order
from perdure.pipeline.source import Source, bytes_source, path_source
from perdure.pipeline.vectorize import Target, Vectorizer, VectorizeResult
from perdure.ports.blob_store import BlobStore
from perdure.ports.parser import Chunker
from perdure.ports.vector_store import VectorStore

RETRY: Final = RetryPolicy(max_attempts=5)
PATIENCE: Final = 60.0
"""Seconds in which a feed tells what became of a file that is not there any more, before the job looks again."""
BITE: Final = 500
ORPHAN_AGE: Final = timedelta(hours=1)
"""A blob without a job may be one whose job is about to be added; after so long it is not."""


def target_of(order: Order, tenant: str, namespace: str, ingestion_id: str = "") -> Target:
    """The document version that an order is about, in the vector store's `namespace`."""
    return Target(
        tenant=tenant,
        namespace=namespace,
        document_id=order.document_id,
        version=order.version,
        ingestion_id=ingestion_id,
        source_metadata=order.metadata,
    )


def carrier(source: BlobStore | None, target: BlobStore | None) -> Callable[[Job], Awaitable[None]]:
    """Give what brings a job's waiting content into another store, where that keeps some."""

    async def carry(job: Job) -> None:
        blob = job.payload.get("blob") if job.kind == KIND else None
        if source and target and isinstance(blob, str) and job.state is not JobState.COMPLETED:
            with suppress(NotFound):  # nobody can run the job any more, here or there
                await target.write(job.tenant, blob, source.read(job.tenant, blob))

    return carry


class Ingestion:
    """Runs `vectorize` jobs.

    Args:
        vectorizer: gives the pipeline with an embedder, which is made when the first job comes: its model takes a moment
            to load.
        chunker: makes what cuts as a name says.
    """

    def __init__(
        self,
        jobs: JobService,
        vectors: VectorStore,
        blobs: BlobStore,
        vectorizer: Callable[[str], Awaitable[Vectorizer]],
        chunker: Callable[[str], Chunker],
        generations: Generations,
    ) -> None:
        self._generations = generations
        self._jobs = jobs
        self._chunker = chunker
        self._vectors = vectors
        self._blobs = blobs
        self._vectorizer = vectorizer
        self._clearing: set[asyncio.Task[bool]] = set()

    def heed(self, move: Transition) -> None:
        """Hear of a transition: a completed job's blob is not needed any more. Others keep it for a retry."""
        job = move.after
        blob = job.payload.get("blob") if job.kind == KIND else None
        if job.state is JobState.COMPLETED and isinstance(blob, str):
            task = asyncio.create_task(self._blobs.delete(job.tenant, blob))
            self._clearing.add(task)
            task.add_done_callback(self._clearing.discard)

    async def close(self) -> None:
        """Wait for what `heed` began."""
        await asyncio.gather(*self._clearing, return_exceptions=True)

    async def run(self, ctx: Context, **payload: Any) -> dict[str, Json] | Partial:
        """The handler: parse, chunk, embed, store, publish."""
        order = msgspec.convert(payload, Order)
        chunker = await asyncio.to_thread(self._chunker, order.chunking) if order.chunking else None
        target = target_of(order, ctx.job.tenant, order.namespace, ctx.job.id)
        try:
            async with self._source(ctx.job.tenant, order) as source:
                result = await self._everywhere(source, target, ctx, chunker)
        except StaleWrite as error:
            # A newer version took over, which is no failure. Had another run of this job taken over, the
            # fence would refuse this result.
            return {"document_id": order.document_id, "superseded": True, "reason": str(error)}
        except DocumentUnreadable as error:
            if isinstance(error.__cause__, FileNotFoundError) and (ctx.job.idempotency_key or "").startswith(
                FED
            ):
                # Its feed calls the job off, or brings a newer one. Else the worker may see another folder than the feed.
                raise RetryAfter(PATIENCE, str(error), counts=True) from error
            raise
        await ctx.progress(1.0, "", **result.counts())
        told: dict[str, Json] = msgspec.to_builtins(result)
        if result.chunks_failed:
            failed = f"{result.chunks_failed} of {result.chunks_total} chunks failed for good"
            return Partial(result=told, message=f"{failed}: {result.failed_chunks[0].reason}")
        return told

    async def _everywhere(
        self, source: Source, target: Target, ctx: Context, chunker: Chunker | None
    ) -> VectorizeResult:
        """Vectorize into the current generation, and into what became current meanwhile or is about to; the first result."""
        results: dict[int, VectorizeResult] = {}
        while True:
            lineage = await self._generations.read(target.tenant, target.namespace)
            due = [one for one in lineage.written if one.number not in results]
            if not due:
                return next(iter(results.values()))
            vectorizer = await self._vectorizer(due[0].embedder)
            there = msgspec.structs.replace(target, namespace=due[0].name(target.namespace))
            try:
                result = await vectorizer.vectorize(source, there, ctx, chunker)
            except StaleWrite:
                if not results:
                    raise
                result = next(iter(results.values()))  # whoever took over there brings it to its end
            results[due[0].number] = msgspec.structs.replace(result, namespace=target.namespace)

    @asynccontextmanager
    async def _source(self, tenant: str, order: Order) -> AsyncIterator[Source]:
        """Open the order's content; a blob is copied into a temporary file first."""
        named: dict[str, Any] = {
            "name": order.name,
            "media_type": order.media_type,
            "encoding": order.encoding,
        }
        if order.text is not None:
            yield msgspec.structs.replace(bytes_source(order.name, order.text.encode()), **named)
        elif order.blob is not None:
            with tempfile.TemporaryDirectory(prefix="perdure-") as folder:
                path = Path(folder) / "content"
                with path.open("wb") as file:
                    async for piece in self._blobs.read(tenant, order.blob):
                        await asyncio.to_thread(file.write, piece)
                yield msgspec.structs.replace(path_source(path), **named)
        else:
            yield msgspec.structs.replace(path_source(order.path or ""), **named)

    async def sweep(self) -> None:
        """Remove what nobody needs: chunks of versions that were replaced, blobs whose job is gone."""
        swept = BITE
        while swept == BITE:
            swept = await self._vectors.sweep(BITE)
        for tenant, blob in await self._blobs.aged(ORPHAN_AGE):
            # A blob bears its job's id, and goes when the job's record does.
            if await self._jobs.store.get(tenant, blob) is None:
                await self._blobs.delete(tenant, blob)
