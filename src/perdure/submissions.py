"""Documents become jobs: streams and texts one by one, files hundreds at a time; files that did not change are found on the way, so
that no worker need read them.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing, suppress
from itertools import islice
from typing import Any, Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import replace

from perdure.core.generations import Generations
from perdure.core.jobs import Done, JobService
from perdure.domain import validation as check
from perdure.domain.document import Draft
from perdure.domain.errors import DocumentEmpty, DocumentError, InvalidInput, PerdureError, QuotaExceeded
from perdure.domain.job import DEFAULT_TENANT, Job, NewJob, Progress
from perdure.ingestion import target_of
from perdure.orders import INLINE_BYTES, FileItem, Order, OrderBook, same_request
from perdure.pipeline.result import VectorizeResult
from perdure.pipeline.source import path_source
from perdure.pipeline.vectorize import Vectorizer
from perdure.ports.blob_store import BlobStore
from perdure.ports.parser import Chunker
from perdure.ports.vector_store import VectorStore
from perdure.quotas import Quotas

log = logging.getLogger(__name__)

BATCH: Final = 500
EPOCH: Final = 1
"""Of the run that a job comes in with."""
PATIENCE: Final = 5.0
"""Seconds after which a look is given up; submitting must not wait long for the vectors' store."""


class Batch(NamedTuple):
    """New jobs, and what came of some of them already, by their places."""

    new: list[NewJob]
    done: dict[int, Done]


Finder: TypeAlias = Callable[[Sequence[NewJob]], Awaitable[dict[int, Done]]]
"""Tells what comes of those of the jobs, by their places, whose documents did not change."""


class Unchanged:
    """Tells of files, before their jobs are added, which of these have nothing to do.

    Args:
        vectorizer: gives the pipeline with an embedder, which is loaded when the first submission comes.
        chunker: makes what cuts as a name says.
    """

    def __init__(
        self,
        vectors: VectorStore,
        vectorizer: Callable[[str], Awaitable[Vectorizer]],
        chunker: Callable[[str], Chunker],
        generations: Generations,
    ) -> None:
        self._vectors = vectors
        self._vectorizer = vectorizer
        self._chunker = chunker
        self._generations = generations

    def finder(self) -> Finder:
        """Give `find` for the batches of one submission. One of many files into a namespace in which readers see nothing reads none
        of them here.
        """
        new_space: bool | None = None

        async def find(new: Sequence[NewJob]) -> dict[int, Done]:
            nonlocal new_space
            if new_space is None:
                new_space = len(new) == BATCH and await self._shows_nothing(new[0])
            return {} if new_space else await self.find(new)

        return find

    async def _shows_nothing(self, job: NewJob) -> bool:
        namespace = msgspec.convert(job.payload, Order).namespace
        with suppress(PerdureError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                current = await self._generations.current(job.tenant, namespace)
                return not await self._vectors.documents(job.tenant, current, 1)
        return False

    async def find(self, new: Sequence[NewJob]) -> dict[int, Done]:
        """What comes of those of the jobs, by their places, whose documents did not change; nothing older is published any
        more after these. Whatever is in doubt or in trouble is left to a worker.

        Args:
            new: of files, all of one tenant and namespace.
        """
        if not self._vectors.capabilities.affirms:
            return {}
        said = Counter(job.document_id for job in new)
        plain = ((place, _plain(job)) for place, job in enumerate(new) if said[job.document_id] == 1)
        orders = {place: order for place, order in plain if order is not None}
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._unchanged(new[0].tenant, orders) if orders else {}
        except (PerdureError, TimeoutError) as error:
            log.debug("whether documents changed is left to the workers: %s", error)
            return {}

    async def _unchanged(self, tenant: str, orders: dict[int, Order]) -> dict[int, Done]:
        namespace = next(iter(orders.values())).namespace
        lineage = await self._generations.read(tenant, namespace)
        if len(lineage.written) != 1:
            return {}
        vectorizer = await self._vectorizer(lineage.current.embedder)
        name = lineage.current.name(namespace)
        drafts = await asyncio.to_thread(self._drafts, vectorizer, tenant, name, orders)
        shown = await self._vectors.affirm(list(drafts.values()))
        if await self._generations.read(tenant, namespace) != lineage:
            return {}
        results = {
            place: replace(VectorizeResult.of_unchanged(stored), namespace=namespace)
            for place, stored in zip(drafts, shown, strict=True)
            if stored is not None
        }
        return {
            place: Done(
                result=msgspec.to_builtins(result) | {"failed_chunks": []},
                progress=Progress(fraction=1.0, counts=result.counts()),
            )
            for place, result in results.items()
        }

    def _drafts(
        self, vectorizer: Vectorizer, tenant: str, namespace: str, orders: dict[int, Order]
    ) -> dict[int, Draft]:
        drafts = {}
        chunkers = {
            name: self._chunker(name) for name in {order.chunking for order in orders.values()} if name
        }
        for place, order in orders.items():
            source = path_source(order.path or "", media_type=order.media_type, encoding=order.encoding)
            target = target_of(order, tenant, namespace)
            with suppress(DocumentError, OSError):
                draft = vectorizer.glance(
                    replace(source, name=order.name), target, EPOCH, chunkers.get(order.chunking or "")
                )
                if draft is not None:
                    drafts[place] = draft
        return drafts


class Submissions:
    """Takes documents in, as many as their tenant may have.

    Attributes:
        looks: whether files that did not change are found here. Where no worker of this process ingests, it loads no model.
    """

    def __init__(
        self, jobs: JobService, blobs: BlobStore, orders: OrderBook, quotas: Quotas, unchanged: Unchanged
    ) -> None:
        self.looks = False
        self._jobs = jobs
        self._blobs = blobs
        self._orders = orders
        self._quotas = quotas
        self._unchanged = unchanged

    async def text(self, text: str, options: Mapping[str, Any]) -> Job:
        """See `App.ingest_text`. A short text is part of its job."""
        if not text.strip():
            raise DocumentEmpty("the text is empty; a document needs at least one word")
        check.encodable(text, "the text")
        data = text.encode()
        if len(data) > INLINE_BYTES or "\x00" in text:
            return await self.stream(_whole(data), options, dict)
        return await self._add({**options, "text": text})

    async def stream(
        self, pieces: AsyncIterable[bytes], options: Mapping[str, Any], late: Callable[[], Mapping[str, Any]]
    ) -> Job:
        """See `App.ingest_stream`. The content is kept under its job's id, before there is a job."""
        if options.get("id") is not None:
            raise InvalidInput(
                "large content cannot bring a job id of its own; use an idempotency_key instead"
            )
        tenant = check.name(options.get("tenant", DEFAULT_TENANT), "tenant")
        job_id = self._jobs.stamp("").entry_id
        digest = hashlib.sha256()
        await self._quotas.check_documents(tenant)  # before the content is read, not only after it
        await self._blobs.write(tenant, job_id, _hashed(pieces, digest))
        try:
            told = {**options, **late(), "id": job_id, "blob": job_id, "sha256": digest.hexdigest()}
            kept = await self._add(told)
        except (InvalidInput, QuotaExceeded):
            await self._blobs.delete(tenant, job_id)
            raise
        # Of any other error nobody knows whether the job was added; a blob without one is swept later.
        if kept.id != job_id:
            await self._blobs.delete(tenant, job_id)
        return kept

    async def _add(self, options: dict[str, Any]) -> Job:
        connection = options.pop("connection", None)
        new = [self._orders.job(options)]
        await self._quotas.check_documents(new[0].tenant)
        return (await self._jobs.add_many(new, same=same_request, connection=connection))[0]

    async def files(
        self, items: Iterable[FileItem], options: Mapping[str, Any], connection: object | None
    ) -> list[Job]:
        """See `App.ingest_many`."""
        jobs: list[Job] = []
        find = self._unchanged.finder() if self.looks and connection is None else _none
        async with aclosing(self._batches(items, options, find)) as batches:
            async for new, done in batches:
                await self._quotas.check_documents(new[0].tenant, len(new) - len(done))
                jobs += await self._jobs.add_many(new, same=same_request, connection=connection, done=done)
        return jobs

    async def _batches(
        self, items: Iterable[FileItem], options: Mapping[str, Any], find: Finder
    ) -> AsyncGenerator[Batch, None]:
        """The jobs of the files; while one batch is written the next is read.

        Args:
            find: finds out what did not change.

        Raises:
            DocumentUnreadable, InvalidInput: as `OrderBook.for_file`; the batches before stand.
        """
        left = iter(items)
        ahead = asyncio.ensure_future(self._batch(list(islice(left, BATCH)), options, find))
        try:
            while (batch := await ahead).new:
                ahead = asyncio.ensure_future(self._batch(list(islice(left, BATCH)), options, find))
                yield batch
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _batch(self, items: list[FileItem], options: Mapping[str, Any], find: Finder) -> Batch:
        if not items:
            return Batch([], {})
        new = await asyncio.to_thread(lambda: [self._orders.for_file(item, options) for item in items])
        return Batch(new, await find(new))


def _plain(job: NewJob) -> Order | None:
    """The order of a file that may be looked at now; None: a worker does it."""
    order = msgspec.convert(job.payload, Order)
    # A request that repeats itself has the version of its first saying, which a dated one does not know.
    unsure = order.dated and job.idempotency_key is not None
    return None if order.path is None or job.run_at or not job.max_rescues or unsure else order


async def _none(new: Sequence[NewJob]) -> dict[int, Done]:
    """Leave it to the workers."""
    return {}


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _hashed(pieces: AsyncIterable[bytes], digest: Any) -> AsyncIterator[bytes]:
    async for piece in pieces:
        digest.update(piece)
        yield piece
