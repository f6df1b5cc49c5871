from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from perdure.domain.document import StoredDocument
from perdure.domain.errors import (
    EmbedderError,
    Fatal,
    LeaseLost,
    ModelMismatch,
    RetryAfter,
    StaleWrite,
    TextRejected,
)
from perdure.pipeline.source import bytes_source
from perdure.vectors.memory import MemoryVectorStore
from tests.unit.pipeline.fakes import (
    FakeEmbedder,
    FakeRun,
    numbered,
    recording,
    target,
    vectorize,
    vectorizer,
    visible,
)

# --- a document comes in ------------------------------------------------------------------------


async def test_document_becomes_chunks_that_lie_where_they_say(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    text = "# Handbook\n\nWelcome to us.\n\n## Leave\n\n" + "You have thirty days. " * 10
    result = await vectorize(store, embedder, bytes_source("a.md", text.encode()), target(lang="en"))
    chunks = await visible(store)
    assert [chunk.chunk_index for chunk in chunks] == list(range(len(chunks)))
    assert all(text[chunk.start : chunk.end] == chunk.chunk_text for chunk in chunks)
    assert chunks[0].metadata == {"heading": ["Handbook"]}
    assert chunks[-1].metadata == {"heading": ["Handbook", "Leave"]}
    assert (result.chunks_total, result.chunks_stored) == (len(chunks), len(chunks))
    assert result.characters == len(text.rstrip())
    published = await store.document("default", "default", "doc")
    assert published is not None
    assert published.complete
    assert published.document.source_metadata == {"lang": "en"}


async def test_result_is_json(store: MemoryVectorStore, embedder: FakeEmbedder) -> None:
    result = await vectorize(store, embedder, numbered(1, 2), target())
    told = msgspec.to_builtins(result)
    assert told["document_id"] == "doc"
    assert told["strategy"].startswith("text-1/recursive:60:0:semantic-text-splitter-")
    assert (told["chunks_total"], told["chunks_embedded"], told["chunks_reused"]) == (2, 2, 0)
    assert told["model"] == "fake"


async def test_small_fresh_document_takes_two_calls_of_the_store(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    calls: list[str] = []
    await vectorize(recording(store, calls), embedder, numbered(1, 2, 3), target())
    assert calls == ["begin", "publish"]


async def test_document_of_many_windows_is_stored_window_by_window(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    calls: list[str] = []
    await vectorize(recording(store, calls), embedder, numbered(*range(10)), target())
    assert calls == ["begin", "upsert", "upsert", "publish"]
    assert len(await visible(store)) == 10


async def test_text_that_is_there_many_times_is_embedded_once_in_a_window(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(1, 1, 1, 2), target())
    assert len(embedder.texts) == 2
    assert len(await visible(store)) == 4


async def test_documents_at_the_same_time_share_batches(store: MemoryVectorStore) -> None:
    embedder = FakeEmbedder(max_batch=64)
    worker = vectorizer(store, embedder)
    await asyncio.gather(
        *(
            worker.vectorize(numbered(n, n + 100), target(document_id=f"doc-{n}"), FakeRun())
            for n in range(20)
        )
    )
    assert len(embedder.texts) == 40
    assert len(embedder.batches) < 20
    assert [len(await visible(store, f"doc-{n}")) for n in range(20)] == [2] * 20


# --- a document comes again ---------------------------------------------------------------------


async def test_unchanged_document_is_left_as_it_is(store: MemoryVectorStore, embedder: FakeEmbedder) -> None:
    first = await vectorize(store, embedder, numbered(1, 2), target(1))
    calls: list[str] = []
    again = await vectorize(recording(store, calls), embedder, numbered(1, 2), target(2))
    assert calls == ["begin"]
    assert (again.unchanged, again.version, again.chunks_total) == (True, 1, 2)
    assert (again.chunks_embedded, again.content_hash) == (0, first.content_hash)
    assert len(embedder.texts) == 2


async def test_older_version_under_way_is_not_published_after_an_unchanged_newer_one(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(1, 2), target(1))
    embedder.gate.clear()
    older = asyncio.create_task(vectorize(store, embedder, numbered(3, 4), target(2)))
    while not embedder.under_way:
        await asyncio.sleep(0)
    assert (await vectorize(store, embedder, numbered(1, 2), target(3))).unchanged
    embedder.gate.set()
    with pytest.raises(StaleWrite):
        await older
    assert "0001" in (await visible(store))[0].chunk_text


async def test_changed_document_embeds_only_what_is_new(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(*range(10)), target(1))
    embedder.batches.clear()
    result = await vectorize(store, embedder, numbered(0, 1, 2, 77, *range(3, 10)), target(2))
    assert [text[-19:-15] for text in embedder.texts] == ["0077"]
    assert (result.chunks_total, result.chunks_embedded, result.chunks_reused) == (11, 1, 10)
    assert result.version == 2
    assert [chunk.chunk_text[38:42] for chunk in await visible(store)][:5] == [
        "0000",
        "0001",
        "0002",
        "0077",
        "0003",
    ]


async def test_changed_metadata_is_published_without_embedding(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(1, 2), target(1, lang="en"))
    result = await vectorize(store, embedder, numbered(1, 2), target(2, lang="de"))
    published = await store.document("default", "default", "doc")
    assert published is not None
    assert published.document.source_metadata == {"lang": "de"}
    assert (result.unchanged, result.chunks_embedded, result.chunks_reused) == (False, 0, 2)


async def test_same_bytes_in_another_encoding_are_another_text(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    data = "das Büro".encode("cp1252")
    await vectorize(store, embedder, bytes_source("a.txt", data, encoding="cp850"), target(1))
    await vectorize(store, embedder, bytes_source("a.txt", data, encoding="cp1252"), target(2))
    assert [chunk.chunk_text for chunk in await visible(store)] == ["das Büro"]


async def test_same_bytes_under_another_name_may_be_another_text(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, bytes_source("a.txt", b"<p>words</p>"), target(1))
    await vectorize(store, embedder, bytes_source("a.html", b"<p>words</p>"), target(2))
    assert [chunk.chunk_text for chunk in await visible(store)] == ["words"]


async def test_older_version_than_published_is_stale(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(1), target(2))
    with pytest.raises(StaleWrite):
        await vectorize(store, embedder, numbered(2), target(1))


async def test_another_model_is_refused(store: MemoryVectorStore) -> None:
    await vectorize(store, FakeEmbedder(dimension=8), numbered(1), target(1))
    with pytest.raises(ModelMismatch):
        await vectorize(store, FakeEmbedder(dimension=9), numbered(2), target(1, "other"))


# --- what cannot be embedded --------------------------------------------------------------------


async def test_poison_chunk_fails_alone_and_is_named(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    embedder.poison = "0005"
    result = await vectorize(store, embedder, numbered(*range(10)), target())
    (failure,) = result.failed_chunks
    assert (failure.index, failure.reason) == (5, "the model will not take this")
    assert (result.chunks_total, result.chunks_stored, result.chunks_failed) == (10, 9, 1)
    assert [chunk.chunk_index for chunk in await visible(store)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]
    published = await store.document("default", "default", "doc")
    assert published is not None
    assert not published.complete


async def test_document_with_failed_chunks_is_tried_again_under_its_next_version(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    embedder.poison = "0005"
    await vectorize(store, embedder, numbered(*range(10)), target(1))
    embedder.poison = None
    embedder.batches.clear()
    result = await vectorize(store, embedder, numbered(*range(10)), target(2))
    assert (result.unchanged, result.chunks_stored, result.chunks_failed) == (False, 10, 0)
    assert len(embedder.texts) == 1


async def test_document_whose_every_chunk_fails_is_an_error_and_readers_keep_the_old_one(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    await vectorize(store, embedder, numbered(1), target(1))
    embedder.poison = "paragraph"
    with pytest.raises(
        TextRejected, match=r"none of the 9 chunks .* the first: the model will not take this"
    ):
        await vectorize(store, embedder, numbered(*range(20, 29)), target(2))
    assert "0001" in (await visible(store))[0].chunk_text


async def test_store_that_keeps_an_incomplete_version_is_not_taken_for_success(
    embedder: FakeEmbedder,
) -> None:
    class Stubborn(MemoryVectorStore):
        async def publish(self, *args: Any, **options: Any) -> StoredDocument:
            return replace(await super().publish(*args, **options), chunk_count=9)

    with pytest.raises(
        Fatal, match=r"published with 9 chunks before.* submit the document again to publish all 10"
    ):
        await vectorize(Stubborn(), embedder, numbered(*range(10)), target())


async def test_only_so_many_failures_are_named(
    store: MemoryVectorStore, embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perdure.pipeline.vectorize.FAILURES_TOLD", 2)
    embedder.poison = "000"
    result = await vectorize(store, embedder, numbered(*range(12)), target())
    assert (result.chunks_failed, len(result.failed_chunks)) == (10, 2)


@pytest.mark.parametrize("error", [EmbedderError("down"), RetryAfter(3.0)])
async def test_failure_that_may_pass_is_raised(
    store: MemoryVectorStore, embedder: FakeEmbedder, error: Exception
) -> None:
    embedder.errors = [None, error]
    with pytest.raises(type(error)):
        await vectorize(store, embedder, numbered(*range(10)), target())
    assert await visible(store) == []


# --- ownership ----------------------------------------------------------------------------------


@pytest.mark.parametrize("checks", range(4))
async def test_nothing_is_written_after_the_lease_is_lost(
    store: MemoryVectorStore, embedder: FakeEmbedder, checks: int
) -> None:
    calls: list[str] = []
    with pytest.raises(LeaseLost):
        await vectorize(
            recording(store, calls), embedder, numbered(*range(12)), target(), FakeRun(checks=checks)
        )
    assert calls == ["begin", "upsert", "upsert", "publish"][:checks]


async def test_newer_run_of_the_same_job_takes_over(store: MemoryVectorStore, embedder: FakeEmbedder) -> None:
    embedder.gate.clear()
    older = asyncio.create_task(vectorize(store, embedder, numbered(*range(12)), target(), FakeRun(epoch=1)))
    while not embedder.under_way:
        await asyncio.sleep(0)
    other = FakeEmbedder()
    result = await vectorize(store, other, numbered(*range(12)), target(), FakeRun(epoch=2))
    embedder.gate.set()
    with pytest.raises(StaleWrite):
        await older
    assert result.chunks_stored == len(await visible(store)) == 12
