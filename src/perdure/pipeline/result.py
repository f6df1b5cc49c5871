"""What a vectorize run tells."""

from __future__ import annotations

from typing import Final

from perdure.domain.document import StoredDocument
from perdure.domain.record import Record

FAILURES_TOLD: Final = 1000
"""Most failed chunks that a result names; `chunks_failed` counts them all."""


class FailedChunk(Record):
    """A chunk that will never have a vector, and why.

    Attributes:
        hash: of its text.
        error: the error's class.
        attempts: how often the model refused a batch with it, until it stood alone.
    """

    index: int
    chunk_id: str
    reason: str
    hash: str = ""
    error: str = "TextRejected"
    attempts: int = 1


class VectorizeResult(Record):
    """What became of a document.

    Attributes:
        version: the one that readers see: an older one where its content was the same.
        unchanged: what readers see was this content already; nothing was written.
        chunks_total: chunks of the document, failed ones among them.
        chunks_embedded: embedded by this run.
        chunks_reused: not embedded, because the version before has the same text, or the cache its vector.
        chunks_stored: what readers can find. Beyond the embedded and the reused are those of runs before this one.
        chunks_failed: how many failed for good; `failed_chunks` names up to 1,000 of them.
        characters: the extracted text's length, up to the last chunk's end; 0 where it was unchanged.
        strategy: names parser, encoding and chunker. model: names the embedding model.
        tokens: that the model read in this run, as far as it tells.
        tokens_saved: that it need not read: as many as it told once, of texts in the cache; a guess by length, of texts that the version
            before has. 0 where the document was unchanged, and not even cut.
    """

    document_id: str
    namespace: str
    version: int
    content_hash: str
    unchanged: bool
    chunks_total: int
    chunks_embedded: int
    chunks_reused: int
    chunks_stored: int
    chunks_failed: int
    failed_chunks: tuple[FailedChunk, ...]
    characters: int
    strategy: str
    model: str
    tokens: int = 0
    tokens_saved: int = 0

    def counts(self) -> dict[str, int]:
        """What a job's progress counts at the end."""
        return {
            "chunks_total": self.chunks_total,
            "chunks_embedded": self.chunks_embedded,
            "chunks_reused": self.chunks_reused,
            "chunks_stored": self.chunks_stored,
            "failed_count": self.chunks_failed,
            "tokens": self.tokens,
        }

    @classmethod
    def of_unchanged(cls, published: StoredDocument) -> VectorizeResult:
        """Build the result of a run that found everything as it should be."""
        return cls(
            document_id=published.document.id,
            namespace=published.document.namespace,
            version=published.document.version,
            content_hash=published.document.content_hash,
            unchanged=True,
            chunks_total=published.chunk_count,
            chunks_embedded=0,
            chunks_reused=0,
            chunks_stored=published.chunk_count,
            chunks_failed=0,
            failed_chunks=(),
            characters=0,
            strategy=published.strategy,
            model=published.model,
        )
