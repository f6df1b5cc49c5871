"""The whole way of 5,000 real documents of about 4 KB, from submission to the published version, beside its parts.

    python -m bench whole-way [--store sqlite|postgresql|postgresql://…] [--workers 1] [--documents 5000] [--rounds 3]

Each round runs, one after the other, on the same texts: the chunker alone; the bundled model alone; the raw insert of
the same chunks, vectors and words into the same tables (SQLite: INSERT; PostgreSQL: one binary COPY, and one each into
a table without the index of words, and into a bare one without words or any index but its key); then the whole way through durable jobs, with an embedder that costs nothing
and with the bundled model, and the same documents, unchanged, again. A JSON line for each, then the medians and the share of
the time that is ours: what is left when chunker, model and raw insert are taken away. The model cuts word pieces on all
processors, so where nothing else keeps them busy the whole way can't come nearer to its speed than
`model_to_whole_way_processor`: processor seconds of the model, of all that the workers take.

With `--workers 2` a second process works beside this one: a worker for each of two processors.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

import asyncpg
import psutil

import perdure
from bench.corpus import documents
from bench.search.sqlite_vectors import raw_insert
from perdure.app import FileItem
from perdure.chunkers.recursive import RecursiveChunker
from perdure.cli.running import run_for_long
from perdure.domain.document import Document, Draft, EmbeddedChunk, make_chunk
from perdure.domain.heads import Edition
from perdure.domain.state import JobState
from perdure.embedders.local import LocalEmbedder
from perdure.vectors.pgvector import PgvectorStore
from perdure.vectors.pgvector.rows import COLUMNS, HEADER, TRAILER, pack
from tests.servers.postgres import fresh_database, postgres_server

CHECKOUT = Path(__file__).parents[2]
DIMENSION = 256
FREE = "python:bench.ingest.parts:Free"
Rows: TypeAlias = Sequence[tuple[Draft, list[EmbeddedChunk]]]


def timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def chunk_all(texts: Sequence[str]) -> list[str]:
    chunker = RecursiveChunker()
    return [piece for text in texts for _, piece in chunker.split(text)]


async def embed_all(model: LocalEmbedder, chunks: Sequence[str]) -> None:
    for start in range(0, len(chunks), model.max_batch):
        await model.embed(chunks[start : start + model.max_batch], "document")


def drafts(texts: Sequence[str]) -> Rows:
    """What the raw insert writes: the same chunks, with a vector each."""
    chunker = RecursiveChunker()
    vector = bytes(4 * (DIMENSION - 1)) + b"\x00\x00\x80\x3f"
    made = []
    for number, text in enumerate(texts):
        document = Document(
            tenant="default",
            namespace="default",
            id=f"{number:05}.txt",
            version=1,
            content_hash="0" * 64,
            ingestion_id="00000000-0000-7000-8000-000000000000",
        )
        draft = Draft(document=document, epoch=1, model="raw", dimension=DIMENSION, strategy="raw")
        pieces = enumerate(chunker.split(text))
        chunks = [make_chunk(document, "raw", index, piece, start) for index, (start, piece) in pieces]
        made.append((draft, [EmbeddedChunk(chunk=chunk, vector=vector) for chunk in chunks]))
    return made


class Took(NamedTuple):
    """Seconds to submit, until all is published, and to take in the same again; how many chunks that are; which threads
    of this process took how many seconds of a processor until all was published, and how many all workers took.
    """

    submitted: float
    published: float
    unchanged: float
    chunks: int
    threads: dict[str, float]
    processor: float


async def whole_way(folder: Path, store: str, embedder: str, workers: int = 1) -> Took:
    async with perdure.open(store, embedder=embedder) as app, others(store, embedder, workers - 1) as beside:
        # So many that every worker gets some, and has loaded its model before the clock starts.
        warming = [await app.ingest_text("warm up", namespace="warm") for _ in range(100 * workers)]
        await asyncio.gather(*(app.wait(job.id) for job in warming))
        begun, before = processor_seconds(), processor(beside)
        submitted, published = await ingest_all(app, folder)
        ended, after = processor_seconds(), processor(beside)
        _, unchanged = await ingest_all(app, folder)
        (space,) = [each for each in await app.vectors.namespaces("default") if each.name == "default"]
        threads = {name: seconds - begun.get(name, 0.0) for name, seconds in ended.items()}
        return Took(submitted, published, unchanged, space.chunks, threads, after - before)


@asynccontextmanager
async def others(store: str, embedder: str, number: int) -> AsyncIterator[list[psutil.Process]]:
    """Workers in processes of their own, as `perdure worker` starts them."""
    told = {"PERDURE_STORE": store, "PERDURE_EMBEDDER": embedder, "PYTHONPATH": str(CHECKOUT)}
    command, env = (sys.executable, "-m", "perdure", "worker"), {**os.environ, **told}
    started = [
        await asyncio.create_subprocess_exec(*command, env=env, stderr=subprocess.PIPE) for _ in range(number)
    ]
    try:
        for worker in started:
            assert worker.stderr is not None
            assert b" runs " in await worker.stderr.readline()
        yield [psutil.Process(worker.pid) for worker in started]
    finally:
        for worker in started:
            worker.terminate()
        for worker in started:
            await worker.communicate()


def processor(processes: Sequence[psutil.Process]) -> float:
    """Seconds of a processor that this process and others took so far."""
    return time.process_time() + sum(sum(process.cpu_times()[:2]) for process in processes)


def processor_seconds() -> dict[str, float]:
    """What the event loop and the thread of the database took so far, system calls included."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    parts = {"loop": "MainThread", "database": "perdure-sqlite-writer"}
    taken = dict.fromkeys(parts, 0.0)
    for thread in psutil.Process().threads():
        for part, name in parts.items():
            if names.get(thread.id, "").startswith(name):
                taken[part] += thread.user_time + thread.system_time
    return taken


async def ingest_all(app: perdure.App, folder: Path) -> tuple[float, float]:
    """Seconds to submit all files of the folder, and until the last job is done."""
    before = (await app.jobs.stats("default")).by_state.get(JobState.COMPLETED, 0)
    begun = time.perf_counter()
    items = (FileItem(path=path, document_id=path.name) for path in sorted(folder.glob("*.txt")))
    jobs = await app.ingest_many(items)
    submitted = time.perf_counter() - begun
    while (await app.jobs.stats("default")).unfinished:
        await asyncio.sleep(0.02)
    seconds = time.perf_counter() - begun
    states = (await app.jobs.stats("default")).by_state
    assert states[JobState.COMPLETED] == before + len(jobs), states
    return submitted, seconds


class OnSqlite:
    """Files in a folder."""

    def __init__(self, folder: Path, workers: int = 1) -> None:
        self.folder = folder
        self.workers = workers

    async def whole_way(self, embedder: str) -> Took:
        database = self.folder / (embedder.rpartition(":")[2] + ".db")
        return await whole_way(self.folder, f"sqlite:///{database}", embedder, self.workers)

    async def raw(self, rows: Rows) -> dict[str, float]:
        return {"raw_insert": timed(lambda: raw_insert(self.folder / "raw.db", rows))}


class OnPostgres:
    """A new database on a server for each run."""

    def __init__(self, folder: Path, url: str, workers: int = 1) -> None:
        self.folder = folder
        self.url = url
        self.workers = workers

    async def whole_way(self, embedder: str) -> Took:
        async with fresh_database(self.url) as url:
            return await whole_way(self.folder, url, embedder, self.workers)

    async def raw(self, rows: Rows) -> dict[str, float]:
        async with fresh_database(self.url) as url:
            store = PgvectorStore(url)
            await store.setup()
            await store.close()
            connection = await asyncpg.connect(url, command_timeout=600)
            await connection.execute(OTHER_TABLES)
            packed = b"".join(
                part
                for number, (_, items) in enumerate(rows)
                for part in pack(Edition(1, number, 1, DIMENSION), items)
            )
            took = {}
            tables = {"raw_bare": "bare", "raw_words": "worded", "raw_insert": "perdure_vector_chunks"}
            for name, table in tables.items():
                begun = time.perf_counter()
                await connection.copy_to_table(
                    table, source=stream(HEADER + packed + TRAILER), columns=COLUMNS, format="binary"
                )
                took[name] = time.perf_counter() - begun
            await connection.close()
            return took


OTHER_TABLES = """
CREATE TABLE bare (LIKE perdure_vector_chunks);
ALTER TABLE bare DROP COLUMN words, ADD PRIMARY KEY (document, edition, chunk_id);
CREATE TABLE worded (LIKE perdure_vector_chunks INCLUDING GENERATED INCLUDING STORAGE);
ALTER TABLE worded ADD PRIMARY KEY (document, edition, chunk_id);
"""


async def stream(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 256 * 1024):
        yield data[start : start + 256 * 1024]


def one_round(texts: Sequence[str], server: str | None, workers: int) -> dict[str, float]:
    model = LocalEmbedder()
    asyncio.run(model.embed(["warm up"], "document"))
    chunks = chunk_all(texts)
    rows = drafts(texts)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number, text in enumerate(texts):
            (folder / f"{number:05}.txt").write_text(text)
        ground = OnSqlite(folder, workers) if server is None else OnPostgres(folder, server, workers)
        free = run_for_long(ground.whole_way(FREE))
        bundled = run_for_long(ground.whole_way("local"))
        before = time.process_time()
        alone = timed(lambda: asyncio.run(embed_all(model, chunks)))
        processor_model = time.process_time() - before
        return {
            "documents": len(texts),
            "chunks": free.chunks,
            "chunker": timed(lambda: chunk_all(texts)),
            "model": alone,
            **asyncio.run(ground.raw(rows)),
            "submit": free.submitted,
            "whole_way_free": free.published,
            **{f"processor_{name}": seconds for name, seconds in free.threads.items()},
            "unchanged": free.unchanged,
            "whole_way_bundled": bundled.published,
            "processor_model": processor_model,
            "processor_free": free.processor,
            "processor_bundled": bundled.processor,
        }


def main() -> None:
    """Run the rounds and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", default="sqlite")
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    if asked.store == "postgresql":
        with postgres_server(shared_buffers="512MB", max_wal_size="4GB") as server:
            measure(asked, server.url)
    else:
        measure(asked, None if asked.store == "sqlite" else asked.store)


def measure(asked: argparse.Namespace, server: str | None) -> None:
    texts = documents(asked.documents)
    rounds = []
    for _ in range(asked.rounds):
        rounds.append(one_round(texts, server, asked.workers))
        print(json.dumps({name: round(value, 3) for name, value in rounds[-1].items()}), flush=True)
    middle = {name: statistics.median(each[name] for each in rounds) for name in rounds[0]}
    ours_free = middle["whole_way_free"] - middle["chunker"] - middle["raw_insert"]
    ours_bundled = middle["whole_way_bundled"] - middle["chunker"] - middle["raw_insert"] - middle["model"]
    print(
        json.dumps(
            {
                "documents_per_second_free": round(middle["documents"] / middle["whole_way_free"]),
                "documents_per_second_unchanged": round(middle["documents"] / middle["unchanged"]),
                "documents_per_second_bundled": round(middle["documents"] / middle["whole_way_bundled"]),
                "chunks_per_second_free": round(middle["chunks"] / middle["whole_way_free"]),
                "chunks_per_second_bundled": round(middle["chunks"] / middle["whole_way_bundled"]),
                "raw_rows_per_second": round(middle["chunks"] / middle["raw_insert"]),
                "bare_rows_per_second": round(
                    middle["chunks"] / middle.get("raw_bare", middle["raw_insert"])
                ),
                "raw_insert_to_whole_way_free": round(middle["raw_insert"] / middle["whole_way_free"], 2),
                "model_to_whole_way_bundled": round(middle["model"] / middle["whole_way_bundled"], 2),
                "model_to_whole_way_processor": round(
                    middle["processor_model"] / middle["processor_bundled"], 2
                ),
                "share_ours_free": round(ours_free / middle["whole_way_free"], 2),
                "share_ours_bundled": round(ours_bundled / middle["whole_way_bundled"], 2),
            }
        )
    )


if __name__ == "__main__":
    main()
