"""What the contract's subjects share: the hooks that a backend fills, and the short words that tests are told in."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import AsyncIterator, Sequence
from typing import Any, ClassVar

import pytest
import pytest_asyncio

from perdure.domain.document import Chunk, Document, Draft, EmbeddedChunk, StoredDocument, make_chunk
from perdure.domain.record import Json
from perdure.domain.search import Hit, SearchQuery
from perdure.ports.vector_store import VectorCapabilities, VectorStore

TENANT, NAMESPACE = "acme", "handbook"
MODEL, DIMENSION = "model-a", 8


class VectorStoreSuite:
    """The hooks. A backend fills `capabilities` and `vectors`, and what its abilities ask for beyond them."""

    pytestmark = pytest.mark.asyncio

    capabilities: ClassVar[VectorCapabilities]
    """What the store must be able to do: an ability that is lost fails, and is never skipped."""

    async def second(self, vectors: VectorStore) -> VectorStore:
        """Open another handle (another connection) on the same data; asked for only with `multi_process`."""
        raise NotImplementedError(
            "a store that several processes may share must give a second handle to test that"
        )

    @pytest_asyncio.fixture
    async def other(self, vectors: VectorStore) -> AsyncIterator[VectorStore]:
        """A second handle on the same data; where only one process may use the store, the store itself."""
        if not self.capabilities.multi_process:
            yield vectors
            return
        handle = await self.second(vectors)
        yield handle
        await handle.close()


# --- things to store ------------------------------------------------------------------------


def make_draft(version: int = 1, epoch: int = 1, **over: Any) -> Draft:
    """Describe a draft; `over` sets fields of its `Document`, and `model`, `dimension` and `strategy`."""
    made_by = {
        "model": over.pop("model", MODEL),
        "dimension": over.pop("dimension", DIMENSION),
        "strategy": over.pop("strategy", "words-v1"),
    }
    facts = {"tenant": TENANT, "namespace": NAMESPACE, "id": "leave", "source_metadata": {}, **over}
    document = Document(
        version=version,
        content_hash=f"{version:064x}",
        ingestion_id=f"00000000-0000-7000-8000-{version:012}",
        **facts,
    )
    return Draft(document=document, epoch=epoch, **made_by)


def make_vector(seed: object, dimension: int = DIMENSION) -> bytes:
    """A vector in any direction, the same for the same seed."""
    drawn = hashlib.shake_256(str(seed).encode()).digest(4 * dimension)
    return pack(*(number / 2**31 for number in struct.unpack(f"<{dimension}i", drawn)))


def pack(*numbers: float) -> bytes:
    """Write numbers as a vector."""
    return struct.pack(f"<{len(numbers)}f", *numbers)


def make_chunks(
    draft: Draft, texts: Sequence[str] | int = 3, metadata: dict[str, Json] | None = None
) -> list[EmbeddedChunk]:
    """Cut the draft into chunks: these texts, or that many of no meaning. The vector follows from the text.

    Args:
        metadata: of all of them.
    """
    if isinstance(texts, int):
        texts = [f"piece {index} of {draft.document.id}" for index in range(texts)]
    return [
        EmbeddedChunk(
            chunk=make_chunk(draft.document, draft.strategy, index, text, 1000 * index, metadata),
            vector=make_vector(text, draft.dimension),
        )
        for index, text in enumerate(texts)
    ]


def ids(chunks: Sequence[EmbeddedChunk]) -> list[str]:
    """Their chunk ids, in order."""
    return [item.chunk.chunk_id for item in chunks]


# --- doing something with them --------------------------------------------------------------


async def begun(vectors: VectorStore, version: int = 1, epoch: int = 1, **over: Any) -> Draft:
    """Begin a draft, as `make_draft` makes it."""
    draft = make_draft(version, epoch, **over)
    await vectors.begin(draft)
    return draft


async def publish(vectors: VectorStore, draft: Draft, chunks: Sequence[EmbeddedChunk]) -> StoredDocument:
    """Publish a draft that was begun, with exactly these chunks, in one step."""
    return await vectors.publish(draft, ids(chunks), last=chunks)


async def published(
    vectors: VectorStore, texts: Sequence[str] | int = 3, version: int = 1, epoch: int = 1, **over: Any
) -> tuple[Draft, list[EmbeddedChunk]]:
    """Begin a draft and publish it with these chunks. `chunk_metadata` in `over` is of all of them."""
    metadata = over.pop("chunk_metadata", None)
    draft = await begun(vectors, version, epoch, **over)
    chunks = make_chunks(draft, texts, metadata)
    await publish(vectors, draft, chunks)
    return draft, chunks


# --- looking at what is there ---------------------------------------------------------------


async def document_of(vectors: VectorStore, draft: Draft) -> StoredDocument | None:
    """What readers see of the draft's document."""
    document = draft.document
    return await vectors.document(document.tenant, document.namespace, document.id)


async def chunks_of(vectors: VectorStore, draft: Draft) -> list[Chunk]:
    """The chunks that readers see of the draft's document."""
    document = draft.document
    return await vectors.chunks(document.tenant, document.namespace, document.id, 10_000)


async def searched(vectors: VectorStore, near: object = "anything", **over: Any) -> list[Hit]:
    """Search near the vector that the text `near` has; `over` sets fields of the query."""
    facts = {"tenant": TENANT, "namespace": NAMESPACE, "vector": make_vector(near), "limit": 1000, **over}
    return await vectors.search(SearchQuery(**facts))


async def found(vectors: VectorStore, words: str, **over: Any) -> list[Hit]:
    """Search for words; `over` sets fields of the query."""
    facts = {"tenant": TENANT, "namespace": NAMESPACE, "text": words, "limit": 1000, **over}
    return await vectors.search_text(SearchQuery(**facts))


async def seen(vectors: VectorStore, **over: Any) -> set[str]:
    """The ids of all chunks that a search finds."""
    return {hit.chunk_id for hit in await searched(vectors, **over)}
