"""Where jobs and documents meet: a document becomes a `vectorize` job, and the job runs the pipeline."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Any, Final

import msgspec

from perdure.core.context import Context
from perdure.core.generations import Generations
from perdure.core.handlers import Partial
from perdure.core.jobs import JobService
from perdure.domain import validation as check
from perdure.domain.document import DEFAULT_NAMESPACE
from perdure.domain.errors import (
    DocumentUnreadable,
    InvalidInput,
    NotFound,
    RetryAfter,
    StaleWrite,
)
from perdure.domain.ids import uuid5
from perdure.domain.job import DEFAULT_TENANT, Job, NewJob
from perdure.domain.record import Json, Record
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import JobState
from perdure.domain.transition import Transition
from perdure.pipeline.source import Source, bytes_source, path_source
from perdure.pipeline.vectorize import Target, Vectorizer, VectorizeResult
from perdure.ports.blob_store import BlobStore
from perdure.ports.parser import Chunker
from perdure.ports.vector_store import VectorStore

KIND: Final = "vectorize"
RETRY: Final = RetryPolicy(max_attempts=5)
INLINE_BYTES: Final = 64_000
"""Text up to this size travels in the job's payload, larger content in a blob."""
FED: Final = "feed:"
"""How the idempotency keys of what feeds submit begin."""
PATIENCE: Final = 60.0
"""Seconds in which a feed tells what became of a file that is not there any more, before the job looks again."""
BITE: Final = 500
ORPHAN_AGE: Final = timedelta(hours=1)
"""A blob without a job may be one whose job is about to be added; after so long it is not."""


class FileItem(Record):
    """A file to ingest.

    Attributes:
        document_id: names the document for all its versions; None: the path as seen from the working folder,
            absolute where it lies outside.
        encoding: of its bytes; None: by byte order mark, else UTF-8.
        metadata: JSON; searches can filter by it.
    """

    path: Path
    document_id: str | None = None
    encoding: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)


class Order(Record, omit_defaults=True):
    """The payload of a `vectorize` job: which document, and where its content is (`path`, `text` or `blob`).

    Attributes:
        version: of the document; grows with each submission.
        dated: the version is the time of submission, not one of the caller's own.
        name: decides the parser, where `media_type` does not.
        encoding: of the bytes; None: by byte order mark, else UTF-8.
        chunking: how it is cut, e.g. ``markdown:1200,overlap=100``; None: as the worker's settings say.
        sha256: of a blob's content, so that the same request is recognised.
    """

    document_id: str
    version: int
    name: str
    dated: bool = False
    namespace: str = DEFAULT_NAMESPACE
    path: str | None = None
    text: str | None = None
    blob: str | None = None
    sha256: str | None = None
    media_type: str | None = None
    encoding: str | None = None
    chunking: str | None = None
    metadata: dict[str, Json] = msgspec.field(default_factory=dict)

    def payload(self) -> dict[str, Json]:
        """As JSON."""
        payload: dict[str, Json] = msgspec.to_builtins(self)
        return payload


class OrderBook:
    """Turns what a caller says of a document into the job for it.

    Args:
        ttl: of the jobs that say none.
        chunking: refuses a name for a way of cutting that cannot be read.
    """

    def __init__(self, jobs: JobService, ttl: timedelta, chunking: Callable[[str], object]) -> None:
        self._jobs = jobs
        self._ttl = ttl
        self._chunking = chunking
        self._lock = Lock()
        self._version = 0

    def for_file(self, item: FileItem, options: Mapping[str, Any]) -> NewJob:
        """A job for a file that must be there now.

        Raises:
            DocumentUnreadable: it is not, or it is no file.
            InvalidInput: a name or value does not fit.
        """
        path = item.path.absolute()
        if not path.is_file():
            there = "it is no regular file" if path.exists() else "there is no such file"
            raise DocumentUnreadable(f"{item.path}: {there}; check the path, then ingest it again")
        document_id = item.document_id
        if document_id is None:
            folder = Path.cwd()
            document_id = (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()
        told = {"path": str(path), "document_id": document_id, "encoding": item.encoding}
        return self.job({"name": path.name, **options, **told, "metadata": item.metadata})

    def job(self, options: Mapping[str, Any]) -> NewJob:
        """Sort the options into the order, which is the payload, and the job around it.

        Raises:
            InvalidInput: an option is unknown, or its value does not fit.
        """
        known = {*Order.__struct_fields__, *NewJob.__struct_fields__} - {"kind", "payload"}
        if unknown := options.keys() - known:
            raise InvalidInput(f"unknown option {min(unknown)!r}; known are {', '.join(sorted(known))}")
        given = {key: value for key, value in options.items() if value is not None}
        order = {key: value for key, value in given.items() if key in Order.__struct_fields__}
        if "document_id" not in order:
            order["document_id"] = self._new_document_id(given)
        if "version" not in order:
            order |= {"version": self._next_version(), "dated": True}
        check.name(order.get("namespace", DEFAULT_NAMESPACE), "namespace")
        check.text(order["document_id"], "document_id")
        check.json_value(order.get("metadata", {}), "metadata")
        if "chunking" in order:
            self._chunking(str(order["chunking"]))
        try:
            payload = msgspec.convert(order, Order).payload()
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the document's description does not fit: {error}") from None
        job = {key: value for key, value in given.items() if key in NewJob.__struct_fields__}
        job |= {"document_id": order["document_id"], "ttl": options.get("ttl", self._ttl)}
        return NewJob(kind=KIND, payload=payload, **job)

    def _new_document_id(self, given: Mapping[str, Any]) -> str:
        """A new id; under an idempotency key always the same, or else the repeat would be another document."""
        if key := given.get("idempotency_key"):
            return uuid5(str(given.get("tenant", DEFAULT_TENANT)), str(key))
        return self._jobs.stamp("").entry_id

    def _next_version(self) -> int:
        """Microseconds of the store's clock, each given once by this process."""
        with self._lock:
            now = int(self._jobs.clock.now().timestamp() * 1_000_000)
            self._version = max(self._version + 1, now)
            return self._version


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


def same_request(made: Job, kept: Job) -> bool:
    """Whether two jobs under one idempotency key ask for the same: all but what is made anew at each saying."""
    return made.kind == kept.kind and _request(made) == _request(kept)


def _request(job: Job) -> dict[str, Json]:
    volatile = {"blob", "version"} if job.payload.get("dated") else {"blob"}
    return {key: value for key, value in job.payload.items() if key not in volatile}


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
            yield msgspec.structs.replace(path_source(Path(order.path or "")), **named)

    async def sweep(self) -> None:
        """Remove what nobody needs: chunks of versions that were replaced, blobs whose job is gone."""
        swept = BITE
        while swept == BITE:
            swept = await self._vectors.sweep(BITE)
        for tenant, blob in await self._blobs.aged(ORPHAN_AGE):
            # A blob bears its job's id, and goes when the job's record does.
            if await self._jobs.store.get(tenant, blob) is None:
                await self._blobs.delete(tenant, blob)
