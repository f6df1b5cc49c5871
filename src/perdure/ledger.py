"""What became of each chunk of a job: the result that names the failed ones, and what readers see, as one list."""

from __future__ import annotations

from enum import StrEnum
from heapq import merge
from itertools import islice

import msgspec

from perdure.core.generations import Documents
from perdure.core.jobs import JobService
from perdure.domain.document import Chunk
from perdure.domain.errors import NotFound
from perdure.domain.job import DEFAULT_TENANT, Job
from perdure.domain.record import Record
from perdure.orders import KIND, Order


class ChunkState(StrEnum):
    """Where a chunk has come to: `stored`, so that searches find it, or `failed` for good."""

    STORED = "stored"
    FAILED = "failed"


class ChunkLine(Record):
    """A chunk of a job.

    Attributes:
        index: its place in the document, from 0.
        hash: SHA-256 of its text, hexadecimal.
        attempts: of a failed one: how often the model refused a batch with it, until it stood alone. What a provider answers
            for other reasons (429, 500) is none.
        error: of a failed one: the error's class. reason: what the model said.
    """

    index: int
    chunk_id: str
    state: ChunkState
    hash: str
    attempts: int | None = None
    error: str | None = None
    reason: str | None = None


class ChunkPage(Record):
    """Chunks by index. Give `next_cursor` as `cursor` for the next page; null at the end."""

    items: list[ChunkLine]
    next_cursor: int | None


class Ledger:
    """The chunks of `vectorize` jobs that ended."""

    def __init__(self, jobs: JobService, documents: Documents) -> None:
        self._jobs = jobs
        self._documents = documents

    async def chunks_of(
        self,
        job_id: str,
        *,
        state: ChunkState | None = None,
        limit: int = 100,
        after: int = -1,
        tenant: str = DEFAULT_TENANT,
    ) -> ChunkPage:
        """A page of a job's chunks, by index. Of a job that has no result yet there are none; once a newer version is
        published, or the document deleted, the failed ones are left, of which a result names 1,000.

        Args:
            state: only those; None: all.
            after: only greater indexes.

        Raises:
            NotFound: there is no such ingestion.
        """
        job = await self._jobs.get(job_id, tenant=tenant)
        if job.kind != KIND:
            raise NotFound(f"job {job_id} is no ingestion; it is a job of kind {job.kind!r}")
        failed = [] if state is ChunkState.STORED else [one for one in _failed(job) if one.index > after]
        stored = [] if state is ChunkState.FAILED else await self._stored(job, limit + 1, after)
        both = merge(sorted(failed, key=_index), stored, key=_index)
        items = list(islice(both, limit + 1))
        return ChunkPage(items=items[:limit], next_cursor=items[limit - 1].index if items[limit:] else None)

    async def _stored(self, job: Job, limit: int, after: int) -> list[ChunkLine]:
        order = msgspec.convert(job.payload, Order)
        there = (job.tenant, order.namespace, order.document_id)
        chunks = await self._documents.chunks(*there, limit, after)
        # Only now: what has become another version meanwhile is not told.
        shown = await self._documents.document(*there)
        version = job.result.get("version") if isinstance(job.result, dict) else None
        return [] if shown is None or shown.document.version != version else [*map(_line, chunks)]


def _failed(job: Job) -> list[ChunkLine]:
    told = job.result.get("failed_chunks") if isinstance(job.result, dict) else None
    return msgspec.convert([one | {"state": "failed"} for one in told or ()], list[ChunkLine])  # type: ignore[operator,union-attr]


def _line(chunk: Chunk) -> ChunkLine:
    return ChunkLine(
        index=chunk.chunk_index, chunk_id=chunk.chunk_id, state=ChunkState.STORED, hash=chunk.chunk_hash
    )


def _index(line: ChunkLine) -> int:
    return line.index
