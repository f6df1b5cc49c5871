"""What the vector store in SQLite costs beside SQLite itself. Prints a JSON line per figure.

    python bench/search/sqlite_vectors.py [--documents 5000] [--chunks 100000] [--rounds 3]

* `ingest`: documents of three chunks of about 1,000 characters and 256 dimensions, from 64 tasks at once, against the
  raw insert of the same rows into tables of the same shape; the two take turns in one run.
* `large`: one document with all of the chunks: upsert in batches, publish, publish a second version of it.
* `search`: latency over all of the chunks, in one namespace and in one of a tenth, with filters, and by words, beside
  what sqlite-vec and FTS5 take alone.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import numpy as np

from perdure.domain.document import Document, Draft, EmbeddedChunk, make_chunk
from perdure.domain.search import SearchQuery, parse_filter
from perdure.vectors.sqlite import SqliteVectorStore
from perdure.vectors.sqlite.schema import STEPS, create_embeddings, equip

DIMENSION = 256
WORDS_PER_CHUNK = 150
AT_ONCE = 64
RAW_TRANSACTION = 3 * AT_ONCE
WORDS = {"rare word": [9000], "question": [3, 20, 150, 900, 4000], "common words": [0, 1, 2]}
"""Queries by the rank of their words, the most frequent first."""


class Corpus:
    """Texts in which words are as unevenly frequent as in real ones (Zipf), and random vectors."""

    def __init__(self, seed: int = 1) -> None:
        self.chance = random.Random(seed)
        letters = "abcdefghijklmnopqrstuvwxyz"
        self.words = [
            "".join(self.chance.choices(letters, k=self.chance.randint(2, 10))) for _ in range(20_000)
        ]
        self.weights = list(itertools.accumulate(1 / rank for rank in range(1, len(self.words) + 1)))
        self.normal = np.random.default_rng(seed)

    def text(self) -> str:
        return " ".join(self.chance.choices(self.words, cum_weights=self.weights, k=WORDS_PER_CHUNK))

    def vectors(self, number: int) -> list[bytes]:
        rows = self.normal.standard_normal((number, DIMENSION), dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return [row.tobytes() for row in rows]

    def document(
        self, name: str, chunks: int, version: int = 1, namespace: str = "all"
    ) -> tuple[Draft, list[EmbeddedChunk]]:
        document = Document(
            tenant="bench",
            namespace=namespace,
            id=name,
            version=version,
            content_hash="0" * 64,
            ingestion_id="00000000-0000-7000-8000-000000000000",
            source_metadata={"lang": self.chance.choice(["en", "de", "fr"]), "path": f"folder/{name}.md"},
        )
        draft = Draft(document=document, epoch=1, model="bench", dimension=DIMENSION, strategy="bench")
        items = [
            EmbeddedChunk(
                chunk=make_chunk(document, "bench", index, self.text(), index * 1000, {"page": index % 50}),
                vector=vector,
            )
            for index, vector in enumerate(self.vectors(chunks))
        ]
        return draft, items


def show(name: str, **figures: Any) -> None:
    print(json.dumps({"bench": name, **figures}), flush=True)


async def ingest(store: SqliteVectorStore, corpus: Sequence[tuple[Draft, list[EmbeddedChunk]]]) -> None:
    """Begin and publish each document, as a worker with many jobs does."""
    waiting = iter(corpus)

    async def work() -> None:
        for draft, items in waiting:
            await store.begin(draft)
            await store.publish(draft, [item.chunk.chunk_id for item in items], last=items)

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def raw_insert(path: Path, corpus: Sequence[tuple[Draft, list[EmbeddedChunk]]]) -> None:
    """The least that SQLite must do for the same rows: text, vector and words of each chunk."""
    connection = apsw.Connection(str(path))
    equip(connection)
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", "full")
    connection.execute(STEPS[0])
    create_embeddings(connection, DIMENSION)
    rows = enumerate((item for _, items in corpus for item in items), 1)
    while some := list(itertools.islice(rows, RAW_TRANSACTION)):
        with connection:
            connection.executemany(
                "INSERT INTO vector_chunks"
                " (id, document, edition, chunk_id, chunk_index, hash, strategy, first, past, metadata, text)"
                " VALUES (?, ?, 1, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    (
                        row,
                        row // 3,
                        item.chunk.chunk_id,
                        item.chunk.chunk_index,
                        item.chunk.chunk_hash,
                        item.chunk.chunk_strategy,
                        item.chunk.start,
                        item.chunk.end,
                        '{"page":1}',
                        item.chunk.chunk_text,
                    )
                    for row, item in some
                ),
            )
            connection.executemany(
                f"INSERT INTO vector_embeddings_{DIMENSION} (rowid, namespace, embedding) VALUES (?, 1, ?)",
                ((row, item.vector) for row, item in some),
            )
            connection.executemany(
                "INSERT INTO vector_words (rowid, namespace, body) VALUES (?, 'n1', ?)",
                ((row, item.chunk.chunk_text) for row, item in some),
            )
    connection.close()


async def bench_ingest(folder: Path, documents: int, rounds: int) -> None:
    source = Corpus()
    corpus = [source.document(f"d{number}", 3) for number in range(documents)]
    ours, raw = [], []
    for turn in range(rounds):
        start = time.perf_counter(), time.process_time()
        raw_insert(folder / f"raw{turn}.db", corpus)
        middle = time.perf_counter(), time.process_time()
        store = SqliteVectorStore(folder / f"ours{turn}.db")
        await store.setup()
        await ingest(store, corpus)
        await store.close()
        end = time.perf_counter(), time.process_time()
        raw.append([now - then for now, then in zip(middle, start, strict=True)])
        ours.append([now - then for now, then in zip(end, middle, strict=True)])
        for name in (f"raw{turn}.db", f"ours{turn}.db"):
            (folder / name).unlink()
    show(
        "ingest",
        documents=documents,
        documents_per_second=round(documents / statistics.median(row[0] for row in ours)),
        raw_per_second=round(documents / statistics.median(row[0] for row in raw)),
        share_of_raw=[round(r[0] / o[0], 2) for r, o in zip(raw, ours, strict=True)],
        share_of_raw_cpu=[round(r[1] / o[1], 2) for r, o in zip(raw, ours, strict=True)],
    )


async def bench_large(store: SqliteVectorStore, path: Path, chunks: int) -> None:
    """One document that takes part of everything that a small one does, and is large."""
    source = Corpus(2)
    for version in (1, 2):
        draft, items = source.document("large", chunks, version, "large")
        ids = [item.chunk.chunk_id for item in items]
        start = time.perf_counter()
        await store.begin(draft)
        for first in range(0, chunks, 256):
            await store.upsert(draft, items[first : first + 256])
        stored = time.perf_counter()
        await store.publish(draft, ids)
        published = time.perf_counter()
        show(
            "large",
            chunks=chunks,
            version=version,
            upsert_chunks_per_second=round(chunks / (stored - start)),
            publish_seconds=round(published - stored, 3),
        )
    start = time.perf_counter()
    swept = await store.sweep(chunks)
    show("sweep", chunks=swept, chunks_per_second=round(swept / (time.perf_counter() - start)))


async def latency(call: Callable[[], Awaitable[list[Any]]], times: int = 7) -> dict[str, float]:
    took = []
    hits: list[Any] = []
    for _ in range(times):
        start = time.perf_counter()
        hits = await call()
        took.append(1000 * (time.perf_counter() - start))
    return {
        "median_ms": round(statistics.median(took), 1),
        "least_ms": round(min(took), 1),
        "hits": len(hits),
    }


def queries(source: Corpus) -> Iterator[tuple[str, str, SearchQuery]]:
    vector = source.vectors(1)[0]

    def query(**over: Any) -> SearchQuery:
        return SearchQuery(**{"tenant": "bench", "namespace": "all", "vector": vector, **over})

    yield "nearest", "search", query()
    yield "nearest, limit 100", "search", query(limit=100)
    yield "nearest in a tenth", "search", query(namespace="tenth")
    yield "nearest, lang = en", "search", query(where=parse_filter({"lang": "en"}))
    yield "nearest, page = 1", "search", query(where=parse_filter({"page": 1}))
    yield "nearest in 3 documents", "search", query(document_ids=("d1", "d2", "d3"))
    for name, ranks in WORDS.items():
        text = " ".join(source.words[rank] for rank in ranks)
        yield f"words: {name}", "search_text", query(text=text)
        yield f"words in a tenth: {name}", "search_text", query(text=text, namespace="tenth")


def raw_queries(path: Path, source: Corpus) -> Iterator[tuple[str, Callable[[], Awaitable[list[Any]]]]]:
    """The least that the extensions must do: rows and distances, no texts, drafts and all."""
    connection = apsw.Connection(str(path))
    equip(connection)
    nearest = f"SELECT rowid, distance FROM vector_embeddings_{DIMENSION} WHERE embedding MATCH ? AND k = 10"
    best = "SELECT rowid, rank FROM vector_words WHERE vector_words MATCH ? ORDER BY rank LIMIT 10"

    def run(statement: str, value: str | bytes) -> Callable[[], Awaitable[list[Any]]]:
        return lambda: asyncio.to_thread(lambda: connection.execute(statement, (value,)).fetchall())

    vector = source.vectors(1)[0]
    for name, namespace in (("raw nearest", 1), ("raw nearest in a tenth", 2)):
        yield name, run(f"{nearest} AND namespace = {namespace}", vector)
    for name, ranks in WORDS.items():
        yield f"raw words: {name}", run(best, " OR ".join(source.words[rank] for rank in ranks))


async def bench_search(store: SqliteVectorStore, path: Path, chunks: int) -> None:
    source = Corpus(3)
    for namespace, number in (("all", chunks // 3), ("tenth", chunks // 30)):
        await ingest(store, [source.document(f"d{n}", 3, namespace=namespace) for n in range(number)])
    for name, call in raw_queries(path, source):
        show("search", what=name, chunks=chunks, **await latency(call))
    for name, method, query in queries(source):
        show("search", what=name, chunks=chunks, **await latency(partial(getattr(store, method), query)))


async def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--documents", type=int, default=5000)
    options.add_argument("--chunks", type=int, default=100_000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--only", choices=["ingest", "large", "search"])
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if chosen.only in (None, "ingest"):
            await bench_ingest(Path(folder), chosen.documents, chosen.rounds)
        for name, bench in (("large", bench_large), ("search", bench_search)):
            if chosen.only in (None, name):
                store = SqliteVectorStore(Path(folder) / f"{name}.db")
                await store.setup()
                await bench(store, Path(folder) / f"{name}.db", chosen.chunks)
                await store.close()


if __name__ == "__main__":
    asyncio.run(main())
