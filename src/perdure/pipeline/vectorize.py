"""The way of a document: read, chunk, embed, store, publish; resuming and reusing whatever is there already."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from typing import Final, Protocol, TypeAlias

import msgspec
from msgspec.structs import replace

from perdure.domain.document import (
    Chunk,
    ChunkIds,
    Document,
    Draft,
    EmbeddedChunk,
    StoredDocument,
    make_chunk,
)
from perdure.domain.drafts import shows_already
from perdure.domain.errors import Fatal, StaleWrite, TextRejected
from perdure.domain.record import Json, Record
from perdure.pipeline.embedding import EmbeddingBatcher, Outcome
from perdure.pipeline.reading import Parsers, Reader, Window, glance
from perdure.pipeline.result import FAILURES_TOLD, FailedChunk, VectorizeResult
from perdure.pipeline.source import Source
from perdure.pipeline.threads import Threads
from perdure.ports.parser import Chunker
from perdure.ports.vector_store import Begun, VectorStore

__all__ = ["FailedChunk", "Run", "Target", "VectorizeResult", "Vectorizer"]

Span: TypeAlias = Callable[[str], AbstractContextManager[object]]
WINDOW: Final = 512
"""Most chunks that are embedded, and then stored, at a time; fewer where the model's batches are smaller."""
PROGRESS_SECONDS: Final = 0.5
BYTES_PER_TOKEN: Final = 4
"""As English has; the published version does not know what its texts cost."""
READERS: Final = 32
"""Documents that are read at once, where most wait for a disk or for a parser's process."""


class Run(Protocol):
    """What the pipeline needs of whoever drives it; a job's context has it."""

    @property
    def epoch(self) -> int:
        """Orders the runs that write the same document version: the newest wins."""
        ...

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        """Hear how far the work has come."""
        ...

    def check(self) -> None:
        """Raise `LeaseLost` when the work should stop."""
        ...


class QuietRun:
    """A run that tells no progress.

    Args:
        check: raises `LeaseLost` when the work should stop; default: it never should.
    """

    def __init__(self, epoch: int, check: Callable[[], None] = lambda: None) -> None:
        self.epoch, self.check = epoch, check

    async def progress(self, fraction: float | None, message: str = "", **counts: int) -> None:
        """Say nothing."""


class Target(Record):
    """Which document version a source becomes; see `perdure.domain.document.Document`."""

    tenant: str
    namespace: str
    document_id: str
    version: int
    ingestion_id: str
    source_metadata: dict[str, Json] = msgspec.field(default_factory=dict)

    def document(self, content_hash: str) -> Document:
        """Build the document version with this content."""
        return Document(
            tenant=self.tenant,
            namespace=self.namespace,
            id=self.document_id,
            version=self.version,
            content_hash=content_hash,
            ingestion_id=self.ingestion_id,
            source_metadata=self.source_metadata,
        )


class Vectorizer:
    """Makes documents searchable. One serves all jobs of a process.

    Args:
        spent: where the tokens of its documents are added up: (tenant, model) → tokens.
        clock: seconds, monotonic; spaces the progress reports.
        span: put around each step by its name, for whoever traces.
    """

    def __init__(
        self,
        vectors: VectorStore,
        batcher: EmbeddingBatcher,
        parsers: Parsers,
        chunker: Chunker,
        *,
        spent: Counter[tuple[str, str]] | None = None,
        clock: Callable[[], float] = time.monotonic,
        span: Span = nullcontext,
    ) -> None:
        self._span = span
        self._vectors = vectors
        self._spent = Counter() if spent is None else spent
        self._batcher = batcher
        self._parsers = parsers
        self._chunker = chunker
        self._clock = clock
        # Not the loop's own threads: documents whose parsers hang must not hold up whoever else needs one.
        self._threads = Threads(READERS, "perdure-reader")

    def glance(
        self, source: Source, target: Target, epoch: int, chunker: Chunker | None = None
    ) -> Draft | None:
        """What `vectorize` would begin, without cutting anything; None for a large source. Called in a thread.

        Raises:
            DocumentError, OSError: as `vectorize`.
        """
        known = glance(source, self._parsers, chunker or self._chunker)
        if known is None:
            return None
        content_hash, strategy = known
        return self._draft(target.document(content_hash), epoch, strategy)

    async def vectorize(
        self, source: Source, target: Target, run: Run, chunker: Chunker | None = None
    ) -> VectorizeResult:
        """Make `target` the version that readers see, whole, in one step. Run again after a death anywhere, it embeds
        only what is not stored yet: at most one window is paid for twice.

        Args:
            chunker: for this document; None: the usual one.

        Raises:
            DocumentError: the source cannot be turned into text.
            StaleWrite: a newer version of the document, or a newer run of this one, has taken over.
            TextRejected: every chunk failed for good; nothing was published.
            Fatal: the store holds this version already, with other chunks, and keeps it so.
            EmbedderError, RetryAfter, StoreUnavailable, OSError: something failed that may pass.
            LeaseLost: from `run.check`.
            ModelMismatch: the namespace holds another model's vectors.
        """
        window = min(WINDOW, self._batcher.max_batch)
        reader = Reader(source, target.document, self._parsers, chunker or self._chunker, window)
        with self._batcher.document():
            try:
                return await self._take_in(reader, run)
            finally:
                if not reader.closed:
                    await self._threads.run(reader.close)

    async def _take_in(self, reader: Reader, run: Run) -> VectorizeResult:
        # The first window of a small document is cut before `begin`, so that one that cannot be read supersedes nothing.
        with self._span("parse"):
            opened = await self._threads.run(reader.open)
        draft = self._draft(opened.document, run.epoch, opened.strategy)
        run.check()
        # Even where nothing changed: an older version that is under way must not be published after this one.
        begun = await self._vectors.begin(draft)
        if begun.published is not None and shows_already(begun.published, draft):
            return VectorizeResult.of_unchanged(begun.published)
        writing = _Writing(self._vectors, self._batcher, draft, begun, run, self._spent, span=self._span)
        window = opened.first if opened.first is not None else await self._next(reader)
        reported = self._clock()
        while not window.last:
            await writing.store(window)
            if self._clock() - reported >= PROGRESS_SECONDS:
                await writing.report(window.fraction)
                reported = self._clock()
            window = await self._next(reader)
        return await writing.publish(window)

    def _draft(self, document: Document, epoch: int, strategy: str) -> Draft:
        return Draft(
            document=document,
            epoch=epoch,
            model=self._batcher.model,
            dimension=self._batcher.dimension,
            strategy=strategy,
        )

    async def _next(self, reader: Reader) -> Window:
        with self._span("parse"):
            return await self._threads.run(reader.window)

    async def copy(self, source: StoredDocument, namespace: str, run: Run) -> VectorizeResult:
        """Embed what readers see of a document into another namespace of its tenant, from the stored texts.

        The copy has its source's version, and the run's epoch; texts that it has vectors for are not embedded again, as in `vectorize`.

        Raises:
            StaleWrite: the source has changed meanwhile, or the copy is newer than it; nothing was published.
            TextRejected, EmbedderError, RetryAfter, StoreUnavailable, LeaseLost, ModelMismatch: as `vectorize`.
        """
        draft = Draft(
            document=replace(source.document, namespace=namespace),
            epoch=run.epoch,
            model=self._batcher.model,
            dimension=self._batcher.dimension,
            strategy=source.strategy,
        )
        run.check()
        begun = await self._vectors.begin(draft)
        writing = _Writing(self._vectors, self._batcher, draft, begun, run, self._spent, span=self._span)
        with self._batcher.document():
            chunks = await self._copied(source, draft, -1)
            count = len(chunks)
            while chunks and (following := await self._copied(source, draft, chunks[-1].chunk_index)):
                await writing.store(Window(chunks=chunks, last=False, fraction=None))
                chunks = following
                count += len(chunks)
            await self._unchanged(source)
            if not chunks:
                raise TextRejected(f"nothing is stored of document {source.document.id!r}; ingest it again")
            complete = source.complete and count == source.chunk_count
            return await writing.publish(Window(chunks=chunks, last=True, fraction=None), complete=complete)

    async def _copied(self, source: StoredDocument, draft: Draft, after: int) -> list[Chunk]:
        """A page of the source's chunks, as the draft's."""
        there = source.document
        size = min(WINDOW, self._batcher.max_batch)
        found = await self._vectors.chunks(there.tenant, there.namespace, there.id, size, after)
        return [
            make_chunk(
                draft.document,
                chunk.chunk_strategy,
                chunk.chunk_index,
                chunk.chunk_text,
                chunk.start,
                chunk.metadata,
            )
            for chunk in found
        ]

    async def _unchanged(self, source: StoredDocument) -> None:
        there = source.document
        now = await self._vectors.document(there.tenant, there.namespace, there.id)
        if now is None or (now.document.version, now.epoch) != (there.version, source.epoch):
            raise StaleWrite(f"document {there.id!r} changed while it was copied")


class _Writing:
    """One run that writes one draft."""

    def __init__(
        self,
        vectors: VectorStore,
        batcher: EmbeddingBatcher,
        draft: Draft,
        begun: Begun,
        run: Run,
        spent: Counter[tuple[str, str]],
        *,
        span: Span,
    ) -> None:
        self._spent = spent
        self._span = span
        self._vectors = vectors
        self._batcher = batcher
        self._draft = draft
        self._begun = begun
        self._run = run
        self._chunk_ids = ChunkIds()
        self._embedded = 0
        self._tokens = 0
        self._tokens_saved = 0
        self._reused = 0
        self._failed = 0
        self._failures: list[FailedChunk] = []

    async def store(self, window: Window) -> None:
        """Make the window's chunks durable."""
        async with self._with_vectors(window.chunks) as chunks:
            if chunks:
                self._run.check()
                with self._span("store"):
                    await self._vectors.upsert(self._draft, chunks)

    async def publish(self, window: Window, *, complete: bool = True) -> VectorizeResult:
        """Store the last window, and let readers see the document; not `complete`: chunks are missing from the start."""
        async with self._with_vectors(window.chunks) as last:
            if not self._chunk_ids:
                first = self._failures[0]
                raise TextRejected(
                    f"none of the {self._failed} chunks could be embedded; the first: {first.reason}"
                )
            self._run.check()
            with self._span("publish"):
                stored = await self._vectors.publish(
                    self._draft, self._chunk_ids, last=last, complete=complete and not self._failed
                )
        if stored.chunk_count != len(self._chunk_ids):
            raise Fatal(
                f"version {stored.document.version} of document {stored.document.id!r} was published with "
                f"{stored.chunk_count} chunks before, and is left as it is; submit the document again to publish all "
                f"{len(self._chunk_ids)}"
            )
        return VectorizeResult(
            document_id=stored.document.id,
            namespace=stored.document.namespace,
            version=stored.document.version,
            content_hash=stored.document.content_hash,
            unchanged=False,
            chunks_total=len(self._chunk_ids) + self._failed,
            chunks_embedded=self._embedded,
            chunks_reused=self._reused,
            chunks_stored=stored.chunk_count,
            chunks_failed=self._failed,
            failed_chunks=tuple(self._failures),
            characters=window.chunks[-1].end,
            tokens=self._tokens,
            tokens_saved=self._tokens_saved,
            strategy=stored.strategy,
            model=stored.model,
        )

    async def report(self, fraction: float | None) -> None:
        """Say how far the work has come."""
        stored = len(self._chunk_ids)
        await self._run.progress(
            fraction,
            f"{stored:,} chunks stored",
            chunks_embedded=self._embedded,
            chunks_reused=self._reused,
            chunks_stored=stored,
            failed_count=self._failed,
            tokens=self._tokens,
        )

    @asynccontextmanager
    async def _with_vectors(self, chunks: list[Chunk]) -> AsyncIterator[list[EmbeddedChunk]]:
        """Give each chunk that is not stored yet its vector, leaving out those that failed for good.

        They are stored inside the block: until then no more is paid for.
        """
        missing = await self._missing(chunks)
        texts = {chunk.chunk_hash: chunk.chunk_text for chunk in missing}
        known = await self._known(texts)
        fresh = [hashed for hashed in texts if hashed not in known]
        tenant = self._draft.document.tenant
        embedding = self._batcher.embed([texts[hashed] for hashed in fresh], tenant)
        try:
            with self._span("embed"):
                answer = await embedding.answer()
            self._tokens += sum(answer.tokens)
            guessed = sum(len(texts[hashed].encode()) // BYTES_PER_TOKEN for hashed in known)
            self._tokens_saved += sum(answer.saved.values()) + guessed
            self._spent[tenant, self._draft.model] += sum(answer.tokens)
            made = known | dict(zip(fresh, answer.outcomes, strict=True))
            embedded, refused = list[EmbeddedChunk](), set[str]()
            for chunk in missing:
                vector = made[chunk.chunk_hash]
                if isinstance(vector, TextRejected):
                    refused.add(chunk.chunk_id)
                    self._fail(chunk, vector)
                else:
                    embedded.append(EmbeddedChunk(chunk=chunk, vector=vector))
            reused = 0
            if known or answer.saved:
                spared = {*known, *(hashed for hashed in fresh if texts[hashed] in answer.saved)}
                reused = sum(item.chunk.chunk_hash in spared for item in embedded)
            self._reused += reused
            self._embedded += len(embedded) - reused
            self._chunk_ids.add(chunk.chunk_id for chunk in chunks if chunk.chunk_id not in refused)
            yield embedded
        finally:
            embedding.release()

    async def _missing(self, chunks: list[Chunk]) -> list[Chunk]:
        if not self._begun.resumed:
            return chunks
        missing = await self._vectors.missing(self._draft, [chunk.chunk_id for chunk in chunks])
        return [chunk for chunk in chunks if chunk.chunk_id in missing]

    async def _known(self, texts: Mapping[str, str]) -> dict[str, Outcome]:
        """Look up the vectors that the published version has for these texts."""
        if self._begun.published is None or not texts:
            return {}
        return {**await self._vectors.vectors(self._draft, texts.keys())}

    def _fail(self, chunk: Chunk, error: TextRejected) -> None:
        self._failed += 1
        if len(self._failures) < FAILURES_TOLD:
            failure = FailedChunk(
                index=chunk.chunk_index,
                chunk_id=chunk.chunk_id,
                reason=str(error),
                hash=chunk.chunk_hash,
                error=type(error).__name__,
                attempts=error.attempts,
            )
            self._failures.append(failure)
