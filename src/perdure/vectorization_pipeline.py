"""One object that vectorizes documents and tells how far it is; all it does is done by `perdure.app.App`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from msgspec.structs import replace

from perdure.app import App, open
from perdure.domain.errors import NotFound
from perdure.domain.job import DEFAULT_TENANT
from perdure.vectorization import VectorizationJobRepository, VectorizationResult

_PAGE = 1000


class VectorizationPipeline:
    """Use it as ``async with VectorizationPipeline("postgresql://…") as pipeline``.

    Jobs that were created before, by whichever process, are run and told of as well.

    Args:
        store: URL of the job store; None: in memory, with a warning, for nothing survives there.
        tenant: whose documents these are.
        settings: fields of `perdure.settings.Settings`: `vectors`, `embedder`, `chunking` …

    Attributes:
        app: everything else that can be done with them: search, delete, …
    """

    app: App

    def __init__(self, store: str | None = None, *, tenant: str = DEFAULT_TENANT, **settings: Any) -> None:
        self.app = open(store or "memory:", **settings)
        self._tenant = tenant

    async def __aenter__(self) -> Self:
        await self.app.__aenter__()
        return self

    async def __aexit__(self, *why: object) -> None:
        await self.app.__aexit__(*why)

    async def create_job(self, document_id: str, content: str | bytes | Path, **options: Any) -> str:
        """Queue a document; durable on return. Its job begins as soon as a worker is free.

        Args:
            content: a text, the bytes of a file, or its path, which a worker on this machine reads.
            options: as of `App.ingest`: `version`, `namespace`, `metadata`, `media_type`, `name` …

        Returns:
            The job's id.

        Raises:
            InvalidInput: a value does not fit.
            DocumentError: the text is empty, or the file is not there.
        """
        options |= {"document_id": document_id, "tenant": self._tenant}
        if isinstance(content, Path):
            return (await self.app.ingest(content, **options)).id
        if isinstance(content, str):
            return (await self.app.ingest_text(content, **options)).id
        return (await self.app.ingest_stream(_whole(content), **{"name": document_id, **options})).id

    async def get_job_status(self, job_id: str) -> VectorizationResult | None:
        """Tell how far a job is; None if there is none, or it has expired. `vector_ids` are those that readers find now.

        Raises:
            InvalidInput: this is no job id.
        """
        found = await VectorizationJobRepository(self.app.jobs.store, tenant=self._tenant).get(job_id)
        if found is None:
            return None
        ids = await self._vector_ids(found)
        return replace(found, vector_ids=ids) if ids else found

    async def vectorize_document(
        self,
        document_id: str,
        content: str | bytes | Path | None = None,
        *,
        job_id: str | None = None,
        timeout: float | None = None,
        **options: Any,
    ) -> VectorizationResult:
        """Vectorize a document and wait for the end, however that is: see the result's `status`.

        Args:
            content: as of `create_job`; may be left out where `job_id` says which job to wait for.
            timeout: seconds; the job goes on after them.

        Raises:
            NotFound: there is no such job.
            WaitTimeout: the time is up.
            InvalidInput, DocumentError: as `create_job`.
        """
        if job_id is None:
            job_id = await self.create_job(document_id, "" if content is None else content, **options)
        await self.app.wait(job_id, tenant=self._tenant, timeout=timeout)
        result = await self.get_job_status(job_id)
        if result is None or result.document_id != document_id:
            raise NotFound(f"job {job_id} does not vectorize document {document_id!r}")
        return result

    async def _vector_ids(self, result: VectorizationResult) -> list[str]:
        """The ids of what this job has stored, as long as its version is the one that readers see."""
        where = (self._tenant, result.namespace, result.document_id)
        shown = await self.app.documents.document(*where)
        if shown is None or shown.document.ingestion_id != result.job_id:
            return []
        ids, last = list[str](), -1
        while page := await self.app.documents.chunks(*where, _PAGE, last):
            ids += [chunk.chunk_id for chunk in page]
            last = page[-1].chunk_index
        return ids


async def _whole(data: bytes) -> AsyncIterator[bytes]:
    yield data
