"""The vector store on Pinecone keeps the contract, and what is its own."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from perdure.domain.document import Draft, EmbeddedChunk
from perdure.domain.errors import InvalidInput, ModelMismatch, StaleWrite, StoreError, StoreUnavailable
from perdure.domain.search import Compare, parse_filter
from perdure.ports.vector_store import VectorCapabilities, VectorStore
from perdure.testing.vector_store import VectorStoreContract
from perdure.testing.vector_store.base import (
    NAMESPACE,
    TENANT,
    begun,
    chunks_of,
    document_of,
    ids,
    make_chunks,
    make_draft,
    make_vector,
    publish,
    published,
    searched,
    seen,
)
from perdure.vectors.pinecone import PineconeVectorStore
from tests.servers.pinecone_peer import PineconePeer, Refusal, serving

# `make check` runs the contract on the store in memory.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DIMENSION, LARGEST = 16, 1536
"""Numbers of the contract's usual vectors, and of its longest."""


@pytest_asyncio.fixture
async def peer() -> AsyncIterator[PineconePeer]:
    async with serving(PineconePeer()) as peer:
        yield peer


class TestPineconeVectorStore(VectorStoreContract):
    capabilities = VectorCapabilities(durable=True, multi_process=True, full_text=False, affirms=False)

    @pytest_asyncio.fixture
    async def vectors(
        self, peer: PineconePeer, request: pytest.FixtureRequest
    ) -> AsyncIterator[PineconeVectorStore]:
        longest = request.node.originalname == "test_any_usual_dimension"
        peer.dimension = LARGEST if longest else DIMENSION
        peer.lag = 0.02
        self.url = peer.url
        vectors = PineconeVectorStore(peer.url)
        await vectors.setup()
        yield vectors
        await vectors.close()

    async def second(self, vectors: VectorStore) -> VectorStore:
        handle = PineconeVectorStore(self.url)
        await handle.setup()
        return handle


@pytest_asyncio.fixture
async def vectors(peer: PineconePeer) -> AsyncIterator[PineconeVectorStore]:
    vectors = await opened(peer)
    yield vectors
    await vectors.close()


async def opened(peer: PineconePeer, patience: float = 60.0) -> PineconeVectorStore:
    vectors = PineconeVectorStore(peer.url, patience)
    await vectors.setup()
    return vectors


def records(peer: PineconePeer, *, chunks: bool) -> set[str]:
    """The ids of all records that were written and not removed."""
    return {name for space in peer.spaces for name in peer.newest(space) if (space.count("/") == 2) == chunks}


# --- what is visible when -------------------------------------------------------------------


@pytest.mark.parametrize("tells", [True, False])
async def test_what_returned_is_seen_however_late_pinecone_shows_it(peer: PineconePeer, tells: bool) -> None:
    peer.lag, peer.tells_lsn = 0.3, tells
    writer, reader = await opened(peer), await opened(peer)
    _, old = await published(writer, 4)
    assert await seen(reader) == set(ids(old))
    draft = await begun(writer, 2)
    chunks = make_chunks(draft, ["a", "b", "c"])
    await writer.upsert(draft, chunks[:2])
    assert await reader.missing(draft, ids(chunks)) == {chunks[2].chunk.chunk_id}
    assert await seen(reader) == set(ids(old))
    await publish(writer, draft, chunks[2:] + chunks[:2])
    assert await seen(reader) == set(ids(chunks))
    assert [chunk.chunk_id for chunk in await chunks_of(reader, draft)] == ids(chunks)
    assert await reader.delete(TENANT, NAMESPACE, "leave") == 3
    assert await seen(writer) == set()
    for handle in (writer, reader):
        await handle.close()


async def test_patience_comes_to_an_end(peer: PineconePeer) -> None:
    vectors = await opened(peer, patience=0.2)
    await published(vectors)
    peer.lag = math.inf
    with pytest.raises(StoreUnavailable, match="does not show"):
        await vectors.begin(make_draft(2))
    peer.lag = 0
    await published(vectors, version=2)
    await vectors.close()


async def test_a_search_does_not_show_what_it_saw_half_written(peer: PineconePeer) -> None:
    """A version that is published between the query and the look at the heads was not whole when it was searched."""
    writer, reader = await opened(peer), await opened(peer)
    draft = await begun(writer)
    chunks = make_chunks(draft, 6)
    await writer.upsert(draft, chunks[:2])
    publishing = list[asyncio.Task[object]]()

    async def publish_meanwhile(route: str) -> None:
        if route == "/query" and not publishing:
            publishing.append(asyncio.ensure_future(writer.publish(draft, ids(chunks), last=chunks[2:])))
            await asyncio.wait(publishing)

    await writer.publish(await begun(writer, id="other"), [])  # so that the namespace is known
    peer.after = publish_meanwhile
    assert await seen(reader) == set(ids(chunks))
    for handle in (writer, reader):
        await handle.close()


# --- processes that die, answers that get lost ----------------------------------------------


async def test_any_answer_may_get_lost(peer: PineconePeer, vectors: PineconeVectorStore) -> None:
    """The SDK asks again where an answer does not come: what is written is written twice."""
    known = set[str]()

    def lost(route: str, body: dict[str, object]) -> bool:
        first = str((route, body.get("namespace"), len(body)))
        known_before = first in known
        known.add(first)
        return not known_before

    peer.lost = lost
    await published(vectors)
    _, chunks = await published(vectors, ["new", "and shorter"], version=2)
    assert await seen(vectors) == set(ids(chunks))
    assert len(known) >= 8


@pytest.mark.parametrize("cut", range(12))
async def test_a_publisher_that_dies_at_any_write_leaves_one_version_whole(
    peer: PineconePeer, cut: int
) -> None:
    first = await opened(peer)
    await published(first, ["old 1", "old 2"])
    writes = iter(range(1000))

    def held(route: str, body: object) -> bool:
        return route in {"/vectors/upsert", "/vectors/delete"} and next(writes) >= cut

    peer.held = held
    dying = await opened(peer)
    work = asyncio.create_task(write_second(dying))
    while not (peer.holds.is_set() or work.done()):
        await asyncio.sleep(0.01)
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    peer.held = lambda route, body: False
    after = await opened(peer)
    shown = {hit.chunk_text for hit in await searched(after)}
    assert shown in ({"old 1", "old 2"}, {"new 1", "new 2", "new 3"})
    draft, chunks = await write_second(after, epoch=2)
    assert {hit.chunk_text for hit in await searched(after)} == {"new 1", "new 2", "new 3"}
    stored = await document_of(after, draft)
    assert stored is not None
    assert (stored.document.version, stored.chunk_count) == (2, 3)
    while await after.sweep(100):
        pass
    assert {name.rpartition("/")[2] for name in records(peer, chunks=True)} == set(ids(chunks))
    for handle in (first, dying, after):
        await handle.close()


async def write_second(vectors: VectorStore, epoch: int = 1) -> tuple[Draft, list[EmbeddedChunk]]:
    """Write a second version, as the pipeline does."""
    draft = make_draft(2, epoch)
    chunks = make_chunks(draft, ["new 1", "new 2", "new 3"])
    there = (await vectors.begin(draft)).published
    if there is None or there.document.version < 2:
        await vectors.upsert(draft, chunks[:2])
        await publish(vectors, draft, chunks)
    return draft, chunks


async def test_a_run_that_is_superseded_while_it_waits_publishes_nothing(peer: PineconePeer) -> None:
    writer, other = await opened(peer), await opened(peer)
    draft = await begun(writer)

    async def begin_newer(route: str) -> None:
        if route == "/query":
            peer.after = None
            await begun(other, epoch=2)

    peer.after = begin_newer
    with pytest.raises(StaleWrite):
        await publish(writer, draft, make_chunks(draft))
    assert await document_of(other, draft) is None
    for handle in (writer, other):
        await handle.close()


async def test_a_run_that_is_outdone_before_it_is_seen_does_not_wait_for_itself(peer: PineconePeer) -> None:
    writer, other = await opened(peer), await opened(peer)

    async def publish_newer(route: str) -> None:
        if route == "/vectors/upsert":
            peer.after = None
            await published(other, version=2)

    peer.after = publish_newer
    with pytest.raises(StaleWrite):
        await writer.begin(make_draft())
    for handle in (writer, other):
        await handle.close()


async def test_a_head_that_was_written_late_is_set_right(
    peer: PineconePeer, vectors: PineconeVectorStore
) -> None:
    """A publisher that was away for long may overwrite what a newer one published."""
    await published(vectors, ["old"])
    [name] = [name for name in peer.newest("perdure/acme") if name.startswith("h/")]
    late = peer.newest("perdure/acme")[name]
    _, chunks = await published(vectors, ["new"], 2)
    peer.put("perdure/acme", name, late)
    assert [hit.chunk_text for hit in await searched(vectors)] == ["old"]
    begun = await vectors.begin(make_draft(2, 2))
    assert begun.published is not None
    assert begun.published.document.version == 2
    assert await seen(vectors) == set(ids(chunks))


# --- what Pinecone refuses ------------------------------------------------------------------


async def test_a_pause_that_is_asked_for_is_kept(peer: PineconePeer, vectors: PineconeVectorStore) -> None:
    loop = asyncio.get_running_loop()
    peer.refusals = [
        Refusal(429, "Too many requests", Retry_After="1"),
        Refusal(503, "busy", Retry_After="0"),
    ]
    began = loop.time()
    _, chunks = await published(vectors)
    assert loop.time() - began >= 1
    assert await seen(vectors) == set(ids(chunks))


async def test_pauses_without_end_are_said(peer: PineconePeer, vectors: PineconeVectorStore) -> None:
    for status, words in ((429, "pause"), (503, "did not answer")):
        peer.refusals = [Refusal(status, "later", Retry_After="0") for _ in range(4)]
        with pytest.raises(StoreUnavailable, match=words):
            await vectors.begin(make_draft())
        peer.refusals = []
    await published(vectors)


async def test_what_is_wrong_with_the_index_is_said_at_the_start(peer: PineconePeer) -> None:
    for url, words in (
        (peer.url.replace(":pc-test@", ":another@"), "PINECONE_API_KEY"),
        (peer.url.rpartition(":")[0] + ":1", "is this its host"),
    ):
        with pytest.raises(StoreError, match=words):
            await PineconeVectorStore(url).setup()
    peer.refusals = [Refusal(404, "not found")]
    with pytest.raises(StoreError, match="make the index"):
        await opened(peer)
    peer.metric = "euclidean"
    with pytest.raises(StoreError, match="by cosine"):
        await opened(peer)


@pytest.mark.parametrize("url", ["pinecone://", "pinecone://:k@host/path", "pinecone://host"])
def test_a_url_that_names_no_index_or_key_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput, match="pinecone://"):
        PineconeVectorStore(url)


async def test_before_setup_and_after_close_it_is_unavailable(peer: PineconePeer) -> None:
    vectors = PineconeVectorStore(peer.url)
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="setup"):
            await vectors.begin(make_draft())
        await vectors.setup()
        await vectors.close()


async def test_vectors_that_are_too_long_for_the_index_are_refused_before_they_are_made(
    vectors: PineconeVectorStore,
) -> None:
    with pytest.raises(ModelMismatch, match="index of dimension 9"):
        await vectors.begin(make_draft(dimension=9))


async def test_metadata_that_is_too_large_is_refused_and_changes_nothing(
    vectors: PineconeVectorStore,
) -> None:
    _, chunks = await published(vectors)
    draft = await begun(vectors, 2, source_metadata={"notes": ["x" * 100] * 500})
    with pytest.raises(InvalidInput, match="40,000"):
        await publish(vectors, draft, make_chunks(draft))
    draft = await begun(vectors, 3)
    with pytest.raises(InvalidInput, match="chunk 0"):
        await vectors.upsert(
            draft, make_chunks(draft, 1, {f"key{number}": "x" * 100 for number in range(500)})
        )
    assert await seen(vectors) == set(ids(chunks))


async def test_large_batches_are_cut_to_what_pinecone_takes(peer: PineconePeer) -> None:
    peer.dimension = 1536
    vectors = await opened(peer)
    draft = await begun(vectors, dimension=1536)
    chunks = make_chunks(draft, [f"{number} " + "word " * 2000 for number in range(150)])
    await publish(vectors, draft, chunks)
    assert len(await searched(vectors, vector=make_vector("x", 1536), limit=1000)) == 150
    assert peer.calls["/vectors/upsert"] >= 5
    await vectors.close()


async def test_words_are_not_searched(vectors: PineconeVectorStore) -> None:
    with pytest.raises(InvalidInput, match="mode 'vector'"):
        await vectors.search_text(None)  # type: ignore[arg-type]  # whatever it is


# --- what it costs --------------------------------------------------------------------------


async def test_a_filter_that_pinecone_understands_is_left_to_it(peer: PineconePeer) -> None:
    vectors = await opened(peer)
    for number in range(20):
        await published(
            vectors, 1, id=f"d{number}", source_metadata={"page": number, "lang": "en", "odd": number % 2 > 0}
        )
    where = parse_filter({"page": {"gte": 15}, "lang": {"in": ["en", "de"]}, "not": {"odd": True}})
    peer.calls.clear()
    hits = await searched(vectors, where=where, limit=3)
    assert {hit.document_id for hit in hits} == {"d16", "d18"}
    assert peer.calls["/query"] == 1
    assert peer.calls.total() <= 3
    texts = await searched(vectors, where=Compare(key="lang", op="gt", value="em"), limit=1000)
    assert len(texts) == 20
    await vectors.close()


async def test_what_a_dead_writer_left_is_swept(peer: PineconePeer, vectors: PineconeVectorStore) -> None:
    draft = await begun(vectors)
    await vectors.upsert(draft, make_chunks(draft, ["x" * 50_000, "short"]))
    _, chunks = await published(vectors, version=2)
    assert await vectors.sweep(1) == 1
    assert await vectors.sweep(100) == 1
    assert await vectors.sweep(100) == 0
    assert {name.rpartition("/")[2] for name in records(peer, chunks=True)} == set(ids(chunks))
    left = sorted(name[0] for name in records(peer, chunks=False))
    assert left == ["h", "m", "n"], "a head, a mark, and the namespace's model"
