"""Whether jobs, documents and vectors tell the same, both ways; and how what does not is put right while all is in use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Final

import msgspec

from perdure.core.generations import Generations
from perdure.core.jobs import JobService
from perdure.domain.document import StoredDocument
from perdure.domain.generation import Generation
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.record import Record
from perdure.domain.state import UNFINISHED, JobState
from perdure.orders import KIND, Order, OrderBook
from perdure.pipeline.vectorize import QuietRun, Vectorizer
from perdure.ports.vector_store import Audit, VectorStore

PAGE: Final = 100
SURPLUS: Final = 1000
"""Chunks that are removed in a step."""
_DONE: Final = (JobState.COMPLETED, JobState.PARTIAL)
_AGAIN: Final = "its content is not kept any more; ingest it again"


class Drift(Record):
    """One thing that does not fit.

    Attributes:
        what: `chunks` or `vectors` of a document are gone; another version is shown than was published (`version`); what a job
            stored is not there (`lost`); there are chunks that belong to nothing (`surplus`), a `generation` that nobody
            needs, or wrong `counts`.
        mended: whether it fits now. remedy: what is left to do; empty: nothing, or ``--repair``.
        job_id: the job that brings the document back.
    """

    what: str
    namespace: str
    message: str
    document_id: str | None = None
    mended: bool = False
    job_id: str | None = None
    remedy: str = ""


class Verification:
    """Compares them, a page at a time. Documents that a job is working on are left alone.

    Args:
        vectorizer: gives the pipeline with an embedder, for vectors that are gone while their texts are there.
        orders: makes the jobs for documents whose texts are gone, too.
    """

    def __init__(
        self,
        jobs: JobService,
        vectors: VectorStore,
        generations: Generations,
        vectorizer: Callable[[str], Awaitable[Vectorizer]],
        orders: OrderBook,
    ) -> None:
        self._jobs = jobs
        self._vectors = vectors
        self._generations = generations
        self._vectorizer = vectorizer
        self._orders = orders

    async def run(self, tenant: str, namespace: str | None, *, repair: bool) -> AsyncIterator[Drift]:
        """Walk all there is; `namespace`: of this one only."""
        known = [one.name for one in await self._vectors.namespaces(tenant)]
        bases = {name.partition("~")[0] for name in known} | (await self._generations.moved(tenant)).keys()
        async for drift in self._jobs_and_documents(tenant, namespace, bases, repair=repair):
            yield drift
        for base in sorted(bases if namespace is None else {namespace}):
            lineage = await self._generations.read(tenant, base)
            # What is being moved to changes all the time, and is compared by the move itself.
            settled = [one for one in lineage.kept if one == lineage.current or one != lineage.coming]
            for generation in settled:
                async for drift in self._namespace(tenant, base, generation, repair=repair):
                    yield drift
            needed = {one.name(base) for one in (*lineage.kept, *lineage.dropped)}
            for name in (name for name in known if name.partition("~")[0] == base and name not in needed):
                yield await self._generation(tenant, base, name, repair=repair)

    # --- what lies in the vector store ------------------------------------------------------

    async def _namespace(
        self, tenant: str, base: str, generation: Generation, *, repair: bool
    ) -> AsyncIterator[Drift]:
        name, after = generation.name(base), None
        while page := await self._vectors.documents(tenant, name, PAGE, after):
            after = page[-1].document.id
            for document_id, audit in await self._vectors.audit(
                tenant, name, [one.document.id for one in page]
            ):
                if not audit.whole and not await self._under_way(tenant, base, document_id):
                    drift = _of_document(base, document_id, audit)
                    yield await self._mend(tenant, generation, audit, drift) if repair else drift
        async for drift in self._surplus(tenant, base, name, repair=repair):
            yield drift

    async def _surplus(self, tenant: str, base: str, name: str, *, repair: bool) -> AsyncIterator[Drift]:
        found = await self._vectors.tidy(tenant, name, SURPLUS, remove=False)
        if found.chunks:  # looked at twice, for what is noted to be swept may be seen late
            found = await self._vectors.tidy(tenant, name, SURPLUS, remove=False)
        chunks, miscounted = found.chunks, found.miscounted
        if repair and (chunks or miscounted):
            chunks = 0
            while (gone := (await self._vectors.tidy(tenant, name, SURPLUS, remove=True)).chunks) == SURPLUS:
                chunks += gone
            chunks += gone
        more = " or more" if chunks >= SURPLUS and not repair else ""
        if chunks:
            told = f"{chunks:,}{more} chunks or vectors belong to no document, draft or version to be swept"
            yield Drift(what="surplus", namespace=base, message=told, mended=repair)
        if miscounted:
            told = f"the counts of documents and chunks are wrong by {miscounted:,}"
            yield Drift(what="counts", namespace=base, message=told, mended=repair)

    async def _generation(self, tenant: str, base: str, name: str, *, repair: bool) -> Drift:
        gone = 0
        while page := await self._vectors.documents(tenant, name, PAGE) if repair else []:
            for one in page:
                gone += await self._vectors.delete(tenant, name, one.document.id)
        told = f"{name} is a generation that nobody needs" + (f"; {gone:,} chunks removed" if repair else "")
        return Drift(what="generation", namespace=base, message=told, mended=repair)

    async def _mend(self, tenant: str, generation: Generation, audit: Audit, drift: Drift) -> Drift:
        """Bring a document in order: from its own texts where they are all there, else from where it came."""
        document_id, name = drift.document_id or "", generation.name(drift.namespace)
        left = await self._vectors.mend(tenant, name, document_id)
        before = audit.stored
        if left.stored and before and left.chunks == before.chunk_count and left.vectors < left.chunks:
            # A repair that died has called it incomplete already: what it was, its job knows.
            job = await self._jobs.store.get(tenant, before.document.ingestion_id)
            if job and job.state is JobState.COMPLETED and _stored_by(job)[1] == before.chunk_count:
                before = msgspec.structs.replace(before, complete=True)
            vectorizer = await self._vectorizer(generation.embedder)
            await vectorizer.copy(before, name, QuietRun(before.epoch + 1))  # outdoes what published
            return msgspec.structs.replace(drift, mended=True)
        if left.whole and (before is None or left.chunks >= before.chunk_count):
            return msgspec.structs.replace(drift, mended=True)
        return await self._bring_back(tenant, drift, before.document.ingestion_id if before else "")

    # --- what jobs say ----------------------------------------------------------------------

    async def _jobs_and_documents(
        self, tenant: str, namespace: str | None, bases: set[str], *, repair: bool
    ) -> AsyncIterator[Drift]:
        """Whether what the jobs of documents stored is there, or something newer, or was deleted."""
        query = JobFilter(tenant=tenant, kinds=(KIND,), states=_DONE)
        after, told = None, set[tuple[str, str]]()
        while page := await self._jobs.store.find(query, PAGE, after):
            after = page[-1].id
            for job in page:
                place = (str(job.payload.get("namespace", "default")), str(job.document_id))
                bases.add(place[0])
                if place in told or namespace not in (None, place[0]):
                    continue
                if (drift := await self._of_job(job, *place)) is not None:
                    told.add(place)
                    yield await self._restore(tenant, drift) if repair else drift

    async def _of_job(self, job: Job, base: str, document_id: str) -> Drift | None:
        name = await self._generations.current(job.tenant, base)
        shown = await self._vectors.document(job.tenant, name, document_id)
        if _shows(shown, job):
            return None
        [(_, audit)] = await self._vectors.audit(job.tenant, name, [document_id])
        version, chunks = _stored_by(job)
        deleted = audit.deleted is not None and audit.deleted >= version
        if _shows(audit.stored, job) or deleted or await self._under_way(job.tenant, base, document_id):
            return None
        seen = (
            f"version {audit.stored.document.version} with {audit.stored.chunk_count:,}"
            if audit.stored
            else "none"
        )
        told = f"job {job.id} stored version {version} with {chunks:,} chunks, readers see {seen}"
        return Drift(what="lost", namespace=base, document_id=document_id, message=told)

    async def _restore(self, tenant: str, drift: Drift) -> Drift:
        """Bring back what the newest of the document's jobs stored."""
        document_id, after, newest = drift.document_id or "", None, None
        name = await self._generations.current(tenant, drift.namespace)
        await self._vectors.mend(tenant, name, document_id)
        query = JobFilter(tenant=tenant, kinds=(KIND,), states=_DONE, document_id=document_id)
        while page := await self._jobs.store.find(query, PAGE, after):
            after = page[-1].id
            here = [job for job in page if job.payload.get("namespace", "default") == drift.namespace]
            newest = max([*here, *([newest] if newest else [])], key=_stored_by, default=None)
        if newest is None or _shows(await self._vectors.document(tenant, name, document_id), newest):
            return msgspec.structs.replace(drift, mended=True)
        return await self._bring_back(tenant, drift, newest.id)

    async def _bring_back(self, tenant: str, drift: Drift, job_id: str) -> Drift:
        """Let a job ingest the document again, as the one that brought it; its content may be gone."""
        job = await self._jobs.store.get(tenant, job_id) if job_id else None
        if job is None:
            return msgspec.structs.replace(drift, remedy=_AGAIN)
        order = msgspec.convert(job.payload, Order)
        if job.state is JobState.PARTIAL:
            again = await self._jobs.requeue(job_id, tenant=tenant, actor="verify")
        elif order.text is not None or order.path is not None:
            about = {name: value for name, value in job.payload.items() if name not in ("version", "dated")}
            kept: dict[str, Any] = {
                "tenant": tenant,
                "user_id": job.user_id,
                "created_by": job.created_by,
                "labels": job.labels,
            }
            again = await self._jobs.add(self._orders.job(about | kept))
        else:
            return msgspec.structs.replace(drift, remedy=_AGAIN)
        return msgspec.structs.replace(drift, job_id=again.id, remedy=f"job {again.id} brings it back")

    async def _under_way(self, tenant: str, base: str, document_id: str) -> bool:
        query = JobFilter(tenant=tenant, kinds=(KIND,), states=UNFINISHED, document_id=document_id)
        return _any_in(base, await self._jobs.store.find(query, PAGE, None))


def _of_document(base: str, document_id: str, audit: Audit) -> Drift:
    count = audit.stored.chunk_count if audit.stored else 0
    if not audit.settled:
        what, told = "version", "readers see another version than was published or deleted last"
    elif audit.chunks != count:
        what, told = "chunks", f"{count:,} chunks are told of, {audit.chunks:,} are there"
    else:
        what, told = "vectors", f"{count - audit.vectors:,} of {count:,} chunks have no vector"
    return Drift(what=what, namespace=base, document_id=document_id, message=told)


def _stored_by(job: Job) -> tuple[int, int]:
    """The version that a job stored or found, and its chunks; of one that did neither (-1, 0)."""
    result: dict[str, Any] = job.result if isinstance(job.result, dict) else {}
    return int(result.get("version", -1)), int(result.get("chunks_stored", 0))


def _shows(shown: StoredDocument | None, job: Job) -> bool:
    """Whether readers see what the job stored, or something newer."""
    version, chunks = _stored_by(job)
    if version < 0:
        return True
    return shown is not None and (shown.document.version, shown.chunk_count) >= (version, chunks)


def _any_in(base: str, jobs: Iterable[Job]) -> bool:
    return any(job.payload.get("namespace", "default") == base for job in jobs)
