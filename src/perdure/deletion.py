"""How a document is taken away: as a job first, which outlives this process and a vector store that is away, then at once."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta
from typing import Final

import msgspec

from perdure.core.context import Context
from perdure.core.generations import Generations
from perdure.core.jobs import JobService
from perdure.domain.errors import Deferred, IllegalTransition, NotFound, StoreError
from perdure.domain.job import Job, NewJob
from perdure.domain.query import JobFilter
from perdure.domain.record import Json
from perdure.domain.retry import RetryPolicy
from perdure.domain.state import UNFINISHED, JobState
from perdure.orders import KIND as INGESTION
from perdure.orders import Order
from perdure.ports.blob_store import BlobStore
from perdure.ports.vector_store import VectorStore

KIND: Final = "delete-document"
RETRY: Final = RetryPolicy(max_attempts=100_000, base=1.0, ceiling=60.0)
PATIENCE: Final = timedelta(seconds=30)
"""After so long, whoever said that a document is to be deleted has done it; else a worker does."""


class Deletion:
    """Takes documents away. Their job is an outbox: written first, gone once what it says is done."""

    def __init__(
        self, jobs: JobService, vectors: VectorStore, blobs: BlobStore, generations: Generations
    ) -> None:
        self._jobs = jobs
        self._vectors = vectors
        self._blobs = blobs
        self._generations = generations

    async def document(self, tenant: str, namespace: str, document_id: str, version: int | None) -> int:
        """Take away what readers see, and what is under way; how many chunks readers no longer see.

        Args:
            version: only versions up to this one, whether they were seen yet or not.

        Raises:
            NotFound: without a version: there is nothing of it.
            Deferred: the vector store is away; it will be done.
        """
        payload: dict[str, Json] = {"namespace": namespace, "document_id": document_id, "version": version}
        said = NewJob(
            kind=KIND,
            tenant=tenant,
            document_id=document_id,
            payload=payload,
            run_at=self._jobs.clock.now() + PATIENCE,
        )
        job = await self._jobs.add(said)
        try:
            gone = await self._remove(tenant, namespace, document_id, version)
        except StoreError as error:
            told = f"document {document_id!r} cannot be deleted now, and will be by job {job.id}: {error}"
            raise Deferred(told, job.id) from error
        with suppress(StoreError):  # then it is done once more, which changes nothing
            await self._jobs.store.delete(tenant, job.id)
        if gone is None:
            raise NotFound(f"no document {document_id!r} in namespace {namespace!r} of tenant {tenant!r}")
        return gone

    async def ingestion(self, tenant: str, job_id: str) -> int:
        """Take away what one ingestion brought, with older versions; a newer version of its document stays.

        Raises:
            NotFound: there is no such ingestion.
            Deferred: the vector store is away; it will be done.
        """
        job = await self._jobs.get(job_id, tenant=tenant)
        if job.kind != INGESTION:
            raise NotFound(f"job {job_id} is no ingestion; it is a job of kind {job.kind!r}")
        order = msgspec.convert(job.payload, Order)
        gone = await self.document(tenant, order.namespace, order.document_id, order.version)
        if order.blob is not None:
            await self._blobs.delete(tenant, order.blob)
        return gone

    async def run(
        self, ctx: Context, namespace: str, document_id: str, version: int | None = None
    ) -> dict[str, Json]:
        """The handler, for what could not be done at once. What was submitted after the deletion stays."""
        tenant, said = ctx.job.tenant, ctx.job.created_at
        if version is None:
            every = await self._ingestions(tenant, namespace, document_id, tuple(JobState))
            later = [msgspec.convert(job.payload, Order).version for job in every if job.created_at > said]
            version = min(later) - 1 if later else None
        return {"chunks_deleted": await self._remove(tenant, namespace, document_id, version) or 0}

    async def _remove(self, tenant: str, namespace: str, document_id: str, version: int | None) -> int | None:
        # Cancel first: what is under way must not publish after the deletion.
        stopped = await self._cancel(tenant, namespace, document_id, version)
        if version is not None:
            return await self._everywhere(tenant, namespace, document_id, version)
        shown = await self._generations.current(tenant, namespace)
        known = await self._vectors.document(tenant, shown, document_id)
        if known is not None:
            stopped.append(known.document.version)
        if not stopped:
            return None
        gone = await self._vectors.delete(tenant, shown, document_id)
        # A run that has not heard of its end yet may still begin: its version must count as deleted too.
        return gone + await self._everywhere(tenant, namespace, document_id, max(stopped))

    async def _everywhere(self, tenant: str, namespace: str, document_id: str, version: int) -> int:
        """Delete in each generation, those that come while this is under way among them; the most that one lost."""
        lost: dict[int, int] = {}
        while True:
            lineage = await self._generations.read(tenant, namespace)
            due = [one for one in lineage.kept if one.number not in lost]
            if not due:
                return max(lost.values())
            for one in due:
                name = one.name(namespace)
                lost[one.number] = await self._vectors.delete(tenant, name, document_id, version=version)

    async def _cancel(self, tenant: str, namespace: str, document_id: str, version: int | None) -> list[int]:
        """Cancel the document's jobs under way, up to this version; their versions."""
        versions: list[int] = []
        for job in await self._ingestions(tenant, namespace, document_id, UNFINISHED):
            brings = msgspec.convert(job.payload, Order).version
            if version is None or brings <= version:
                with suppress(IllegalTransition, NotFound):  # it came to its end meanwhile
                    await self._jobs.cancel(job.id, tenant=tenant, reason="its document was deleted")
                versions.append(brings)
        return versions

    async def _ingestions(
        self, tenant: str, namespace: str, document_id: str, states: tuple[JobState, ...]
    ) -> list[Job]:
        query = JobFilter(tenant=tenant, kinds=(INGESTION,), states=states, document_id=document_id)
        found: list[Job] = []
        while page := await self._jobs.store.find(query, 500, found[-1].id if found else None):
            found += page
        return [job for job in found if msgspec.convert(job.payload, Order).namespace == namespace]
