"""What a document's way costs, part by part: prints one JSON line each.

    python -m bench.ingest.pipeline [--only chunk,parse,apart,model,overhead,memory] [--megabytes 500]

The best of several rounds counts: what a part costs when nobody disturbs it.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import io
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html import escape
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.corpus import packages
from bench.ingest.parts import DOCUMENT, Free, Quiet, documents, language_reference, make_vectorizer, target
from perdure.chunkers.recursive import RecursiveChunker
from perdure.embedders.hashing import HashingEmbedder
from perdure.embedders.local import LocalEmbedder
from perdure.parsers import default_parsers
from perdure.parsers.html import HtmlParser
from perdure.pipeline.embedding import EmbeddingBatcher
from perdure.pipeline.source import bytes_source
from perdure.ports.parser import Parser

ROUNDS = 5
UNDER_WAY = 64

Line = dict[str, Any]


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Seconds of the quickest round."""
    seconds = []
    for _ in range(rounds):
        begun = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds)


async def seconds_of(work: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


def _drain(split: Callable[[str], Iterator[object]], text: str) -> None:
    for _ in split(text):
        pass


def _parse(parser: Parser, data: bytes) -> None:
    for _ in parser.parse(io.BytesIO(data), None):
        pass


def chunk() -> Iterator[Line]:
    text = language_reference()
    chunker = RecursiveChunker()
    shapes = {
        "reference": text,
        "one line": " ".join(text.split()),
        "no space": "x" * 1_000_000,
        "one sentence": "word and more " * 70_000,
    }
    for shape, sample in shapes.items():
        seconds = best(partial(_drain, chunker.split, sample), 3)
        yield {
            "bench": "chunk",
            "text": shape,
            "strategy": chunker.strategy,
            "mb_per_s": round(len(sample) / 1e6 / seconds, 1),
        }


def parse() -> Iterator[Line]:
    text = language_reference()
    paragraphs = text.split("\n\n")
    samples = {
        ".txt": text,
        ".rst": text,
        ".md": text,
        ".html": "<main>" + "".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs) + "</main>",
    }
    for suffix, sample in samples.items():
        parser = default_parsers().choose(f"page{suffix}", None, b"")
        data = sample.encode()
        seconds = best(partial(_parse, parser, data))
        yield {"bench": "parse", "parser": parser.name, "mb_per_s": round(len(data) / 1e6 / seconds, 1)}


def apart() -> Iterator[Line]:
    """A page of 4 KB: in this process, in a fork for each, and in an interpreter for each; then real books."""
    data = "".join(
        f"<p>{escape(part)}</p>" for part in language_reference()[:DOCUMENT].split("\n\n")
    ).encode()
    sandboxed = default_parsers().choose("a.html", None, b"")
    ways: dict[str, Callable[[], object]] = {
        "in this process": partial(_parse, HtmlParser(), data),
        "forked": partial(_parse, sandboxed, data),
        "interpreter": partial(_fresh, data),
    }
    for way, work in ways.items():
        yield {"bench": "apart", "way": way, "ms_per_document": round(best(work, 20) * 1000, 2)}
    with ThreadPoolExecutor(8) as threads:
        seconds = best(lambda: list(threads.map(lambda _: _parse(sandboxed, data), range(200))), 3)
    yield {"bench": "apart", "way": "forked, 8 at once", "documents_per_s": round(200 / seconds)}
    for folder in packages("debian-policy"):
        for packed in folder.rglob("policy.pdf.gz"):
            packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        for path in (*folder.rglob("policy.pdf"), *folder.rglob("policy.epub")):
            content = path.read_bytes()
            parser = default_parsers().choose(path.name, None, content[:4096])
            seconds = best(partial(_parse, parser, content), 3)
            yield {
                "bench": "apart",
                "document": path.name,
                "kb": len(content) // 1000,
                "s": round(seconds, 2),
            }


def _fresh(data: bytes) -> None:
    script = "import sys; from perdure.parsers.html import HtmlParser; list(HtmlParser().parse(sys.stdin.buffer, None))"
    subprocess.run([sys.executable, "-c", script], input=data, check=True)


async def model() -> list[Line]:
    """The model alone, and through the batcher with many documents under way."""
    chunker, embedder = RecursiveChunker(), LocalEmbedder()
    pieces = [[piece for _, piece in chunker.split(data.decode())] for data in documents(512)]
    texts = [piece for mine in pieces for piece in mine]

    async def alone() -> None:
        for start in range(0, len(texts), embedder.max_batch):
            await embedder.embed(texts[start : start + embedder.max_batch], "document")

    async def batched() -> None:
        batcher = EmbeddingBatcher(embedder)
        waiting = iter(pieces)

        async def document_after_document() -> None:
            for mine in waiting:
                with batcher.document():
                    async with batcher.embed(mine):
                        pass

        await asyncio.gather(*(document_after_document() for _ in range(UNDER_WAY)))

    await alone()
    # In turns, so that whatever else the machine does disturbs both.
    seconds = [(await seconds_of(alone), await seconds_of(batched)) for _ in range(ROUNDS)]
    by_itself, through = (len(texts) / min(column) for column in zip(*seconds, strict=True))
    return [
        {"bench": "model", "model": embedder.model, "chunks": len(texts), "chunks_per_s": round(by_itself)},
        {
            "bench": "model through batcher",
            "documents_under_way": UNDER_WAY,
            "chunks_per_s": round(through),
            "of_model_alone": round(through / by_itself, 3),
        },
        {"bench": "the model's own library", "chunks_per_s": round(library(texts))},
    ]


def library(texts: list[str]) -> float:
    """Texts a second of WordLlama's own code, for comparison."""
    from wordllama import WordLlama

    spec = find_spec("wordllama")
    assert spec is not None
    assert spec.origin is not None
    loaded = WordLlama.load(cache_dir=Path(spec.origin).parent, disable_download=True)
    return len(texts) / best(lambda: loaded.embed(texts, norm=True), 3)


async def overhead() -> list[Line]:
    """Everything but model and store: threads, hashing, parsing, chunking, ids, batching."""
    contents = documents(1000)
    lines = []
    for embedder in (Free(), HashingEmbedder()):
        for under_way in (1, UNDER_WAY):
            wall, cpu = [], []
            for _ in range(ROUNDS):
                begun, spent = time.perf_counter(), time.process_time()
                await _ingest(make_vectorizer(embedder), contents, under_way)
                wall.append(time.perf_counter() - begun)
                cpu.append(time.process_time() - spent)
            lines.append(
                {
                    "bench": "vectorize without store",
                    "model": embedder.model,
                    "documents_under_way": under_way,
                    "bytes_per_document": len(contents[0]),
                    "us_per_document": round(min(wall) / len(contents) * 1e6),
                    "cpu_us_per_document": round(min(cpu) / len(contents) * 1e6),
                }
            )
    return lines


async def _ingest(vectorizer: Any, contents: list[bytes], under_way: int) -> None:
    waiting = iter(enumerate(contents))

    async def document_after_document() -> None:
        for number, content in waiting:
            await vectorizer.vectorize(bytes_source("page.txt", content), target(f"page-{number}"), Quiet())

    await asyncio.gather(*(document_after_document() for _ in range(under_way)))


def memory(megabytes: int) -> Iterator[Line]:
    for shape in ("line", "paragraphs"):
        command = [
            sys.executable,
            "-m",
            "bench.ingest.memory",
            "--megabytes",
            str(megabytes),
            "--shape",
            shape,
        ]
        yield json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def lines(only: list[str], megabytes: int) -> Iterator[Line]:
    parts: dict[str, Callable[[], Any]] = {
        "chunk": chunk,
        "parse": parse,
        "apart": apart,
        "model": lambda: asyncio.run(model()),
        "overhead": lambda: asyncio.run(overhead()),
        "memory": lambda: memory(megabytes),
    }
    for name in only or parts:
        yield from parts[name]()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="some of chunk,parse,apart,model,overhead,memory")
    parser.add_argument("--megabytes", type=int, default=500, help="size of the large text")
    given = parser.parse_args()
    for line in lines([name for name in given.only.split(",") if name], given.megabytes):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
