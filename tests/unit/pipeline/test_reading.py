from __future__ import annotations

import asyncio
import io
import itertools
import threading
from pathlib import Path
from typing import BinaryIO

import pytest

from perdure.chunkers.recursive import RecursiveChunker
from perdure.domain.errors import (
    DocumentEmpty,
    DocumentUnreadable,
    EmbedderError,
    RetryAfter,
    UnsupportedFormat,
)
from perdure.parsers import default_parsers
from perdure.pipeline import reading
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.pipeline.source import Source, bytes_source, path_source
from perdure.pipeline.vectorize import Vectorizer
from perdure.vectors.memory import MemoryVectorStore
from tests.unit.pipeline.fakes import (
    FakeEmbedder,
    FakeRun,
    numbered,
    recording,
    settle,
    target,
    vectorize,
    vectorizer,
    visible,
)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every source count as large, so that it is streamed."""
    monkeypatch.setattr(reading, "SMALL", 0)


# --- what cannot be read ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", DocumentEmpty, "bad.txt: there is no text"),
        (b" \n\n ", DocumentEmpty, "bad.txt: there is no text"),
        (b"caf\xe9", DocumentUnreadable, r"bad.txt: byte 3 \(0xe9\)"),
        (b"a\x00b", DocumentUnreadable, "bad.txt: the content is binary"),
    ],
)
async def test_document_that_cannot_be_read_is_named_and_supersedes_nothing(
    store: MemoryVectorStore, embedder: FakeEmbedder, data: bytes, error: type[Exception], message: str
) -> None:
    calls: list[str] = []
    with pytest.raises(error, match=message):
        await vectorize(recording(store, calls), embedder, bytes_source("bad.txt", data), target())
    assert calls == []


async def test_format_that_is_not_read_is_named(store: MemoryVectorStore, embedder: FakeEmbedder) -> None:
    with pytest.raises(UnsupportedFormat, match=r"a\.png: \.png is not a format"):
        await vectorize(store, embedder, bytes_source("a.png", b"\x89PNG\r\n\x1a\n\x00"), target())


async def test_vanished_file_is_named_with_the_remedy(
    store: MemoryVectorStore, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    with pytest.raises(DocumentUnreadable, match=r"gone\.txt: there is no such file any more; put it back"):
        await vectorize(store, embedder, path_source(tmp_path / "gone.txt"), target())


async def test_folder_is_no_document(
    store: MemoryVectorStore, embedder: FakeEmbedder, tmp_path: Path
) -> None:
    with pytest.raises(DocumentUnreadable, match="this is a folder; ingest the files in it"):
        await vectorize(store, embedder, path_source(tmp_path), target())


@pytest.mark.parametrize(
    ("error", "told", "message"),
    [
        (
            PermissionError(13, "Permission denied", "/etc/secret"),
            DocumentUnreadable,
            "/etc/secret: the worker may not",
        ),
        (PermissionError("no"), DocumentUnreadable, r"name\.txt: the worker may not read"),
        (OSError(5, "Input/output error"), OSError, "Input/output error"),
    ],
)
async def test_forbidden_file_is_unreadable_and_a_failing_disk_may_pass(
    store: MemoryVectorStore, embedder: FakeEmbedder, error: Exception, told: type[Exception], message: str
) -> None:
    def refuse() -> BinaryIO:
        raise error

    with pytest.raises(told, match=message):
        await vectorize(store, embedder, Source(name="name.txt", open=refuse), target())


# --- streaming ----------------------------------------------------------------------------------


class Tracked:
    """A source that knows whether its files were closed."""

    def __init__(self, data: bytes) -> None:
        self.files: list[io.BytesIO] = []
        self.data = data

    def open(self) -> BinaryIO:
        file = io.BytesIO(self.data)
        self.files.append(file)
        return file

    @property
    def source(self) -> Source:
        return Source(name="tracked.txt", open=self.open)

    @property
    def closed(self) -> bool:
        return bool(self.files) and all(file.closed for file in self.files)


def data(*numbers: int) -> bytes:
    return numbered(*numbers).open().read()


@pytest.mark.usefixtures("large")
async def test_streamed_document_has_the_chunks_of_one_read_whole(
    store: MemoryVectorStore, embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    await vectorize(store, embedder, numbered(*range(50)), target(document_id="streamed"))
    monkeypatch.undo()
    await vectorize(store, embedder, numbered(*range(50)), target(document_id="whole"))
    streamed, whole = await visible(store, "streamed"), await visible(store, "whole")
    assert [(chunk.start, chunk.chunk_text) for chunk in streamed] == [
        (chunk.start, chunk.chunk_text) for chunk in whole
    ]


@pytest.mark.usefixtures("large")
async def test_file_is_closed_at_the_end(store: MemoryVectorStore, embedder: FakeEmbedder) -> None:
    tracked = Tracked(data(*range(9)))
    await vectorize(store, embedder, tracked.source, target())
    assert tracked.closed


async def test_small_file_is_closed_before_it_is_embedded(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    tracked = Tracked(data(1))
    embedder.gate.clear()
    task = asyncio.create_task(vectorize(store, embedder, tracked.source, target()))
    while not embedder.under_way:
        await asyncio.sleep(0)
    assert tracked.closed
    embedder.gate.set()
    await task


@pytest.mark.usefixtures("large")
async def test_file_is_closed_when_the_work_fails_or_is_cancelled(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    tracked = Tracked(data(*range(9)))
    embedder.errors = [EmbedderError("down")]
    with pytest.raises(EmbedderError):
        await vectorize(store, embedder, tracked.source, target())
    assert tracked.closed
    tracked = Tracked(data(*range(9)))
    embedder.gate.clear()
    task = asyncio.create_task(vectorize(store, embedder, tracked.source, target(2)))
    while not embedder.under_way:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tracked.closed


@pytest.mark.usefixtures("large")
async def test_work_cancelled_while_a_thread_reads_waits_for_the_thread_and_closes_the_file(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    tracked = Tracked(data(*range(9)))

    def slowly() -> BinaryIO:
        opening.set()
        go_on.wait(10)
        return tracked.open()

    task = asyncio.create_task(vectorize(store, embedder, Source(name="a.txt", open=slowly), target()))
    await asyncio.to_thread(opening.wait, 10)
    task.cancel()
    await settle()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert tracked.closed


@pytest.mark.usefixtures("large")
async def test_file_that_changes_while_it_is_read_is_tried_again_later(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    class Growing(io.BytesIO):
        """Grows when it is read for the second time."""

        rewinds = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            self.rewinds += 1
            if self.rewinds == 2:
                super().seek(0, 2)
                self.write(b" And more.")
            return super().seek(offset, whence)

    source = Source(name="log.txt", open=lambda: Growing(data(*range(9))))
    with pytest.raises(RetryAfter, match=r"log\.txt changed while it was read") as told:
        await vectorize(store, embedder, source, target())
    assert told.value.counts
    assert await visible(store) == []


@pytest.mark.usefixtures("large")
async def test_long_work_reports_progress_now_and_then(
    store: MemoryVectorStore, embedder: FakeEmbedder
) -> None:
    ticks = itertools.count(step=0.2)
    run = FakeRun()
    worker = vectorizer(store, embedder, clock=lambda: next(ticks))
    result = await worker.vectorize(numbered(*range(100)), target(), run)
    stored = [counts["chunks_stored"] for _, _, counts in run.reports]
    assert 5 <= len(stored) <= 15
    assert stored == sorted(stored)
    assert run.reports[-1][2]["chunks_embedded"] == stored[-1] < result.chunks_total
    assert f"{stored[-1]} chunks stored" in run.reports[-1][1]


@pytest.mark.usefixtures("large")
async def test_progress_says_how_much_of_the_bytes_was_read(store: MemoryVectorStore) -> None:
    ticks = itertools.count()
    run = FakeRun()
    text = "Some words that make up a text. " * 50_000
    worker = Vectorizer(
        store,
        EmbeddingBatcher(FakeEmbedder(max_batch=100)),
        default_parsers(),
        RecursiveChunker(),
        clock=lambda: float(next(ticks)),
    )
    await worker.vectorize(bytes_source("long.txt", text.encode()), target(), run)
    fractions = [fraction for fraction, _, _ in run.reports if fraction is not None]
    assert fractions
    assert fractions == sorted(fractions)
    assert 0 < fractions[0] < fractions[-1] < 1
