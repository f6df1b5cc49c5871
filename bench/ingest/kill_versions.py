"""Kill workers at random moments of one large document, version after version, while a reader asks all the time.

    python -m bench.ingest.kill_versions --store sqlite|postgres|pinecone [--kills 100] [--chunks 5000] [--seed 1]

The document has other words in each version, so that every chunk must be embedded. Each worker process is ended by SIGKILL
at a random moment of its work; after some kills one may finish, and the next version comes. A reader searches without pause, by meaning
and, where the store can, by meaning and words: every answer must be full, and of one version. In the end each version was embedded once, but for
the batches that were under way when a worker died. With Pinecone it is the test peer, which shows writes 50 ms late. Prints a JSON line; exit code 1 if
anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import perdure
from bench.soak import EMBED_LOG, LoggingEmbedder, count_batches
from perdure.app import App
from perdure.domain.errors import PerdureError
from perdure.domain.state import JobState

QUESTION = "passage of the handbook"
LIMIT = 100
EACH = 8
"""Kills of one version, before it may be finished."""
DOCUMENT = "handbook.txt"
BATCH = 64


class Provider(LoggingEmbedder):
    """Notes each batch, and takes its time, so that kills fall into it."""

    max_batch = BATCH
    seconds = 0.02


@dataclass
class Report:
    """What was seen; `wrong` is empty if all promises held."""

    store: str
    chunks: int
    kills: int = 0
    versions: int = 0
    answers: int = 0
    mixed: int = 0
    failed: int = 0
    embedded_twice: int = 0
    allowed_twice: int = 0
    seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Other(Provider):
    """Another model."""

    def __init__(self) -> None:
        super().__init__()
        self.dimension = 128
        self.model = "hashing-1:128"


def text_of(version: int, chunks: int) -> str:
    """Paragraphs that each become a chunk."""
    return "\n\n".join(
        f"Edition {version}, passage {n} of the handbook: "
        + " ".join(f"w{(version * 7919 + n * 31 + k) % 9973}" for k in range(20))
        for n in range(chunks)
    )


@asynccontextmanager
async def vectors_url(store: str, folder: Path) -> AsyncIterator[str]:
    """Somewhere for the vectors."""
    if store == "sqlite":
        yield f"sqlite:///{folder / 'vectors.db'}"
    elif store == "postgres":
        from tests.servers.postgres import fresh_database, postgres_server

        with postgres_server() as server:
            async with fresh_database(server.url) as url:
                yield url
    else:
        from tests.servers.pinecone_peer import PineconePeer, serving

        async with serving(PineconePeer(dimension=256)) as peer:
            peer.lag = 0.05
            yield peer.url


def settings(folder: Path, vectors: str) -> dict[str, Any]:
    return {
        "store": f"sqlite:///{folder / 'jobs.db'}",
        "vectors": vectors,
        "embedder": "python:bench.ingest.kill_versions:Provider",
        "chunking": "recursive:200",
        "lease_seconds": 1.0,
        "poll_seconds": 0.1,
    }


def start_worker(folder: Path, vectors: str, **more: str) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    told = {
        f"PERDURE_{name.upper()}": str(value) for name, value in (settings(folder, vectors) | more).items()
    }
    root = str(Path(__file__).parents[2])
    paths = {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "perdure", "worker"],
            cwd=folder,
            env={**os.environ, **told, **paths, EMBED_LOG: str(folder / "embedded.log")},
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


async def read(app: App, report: Report, stop: asyncio.Event) -> None:
    """Ask until told to stop."""
    modes = ("vector", "hybrid") if app.vectors.capabilities.full_text else ("vector",)
    while not stop.is_set():
        for mode in modes:
            try:
                hits = await app.search(QUESTION, mode=mode, limit=LIMIT)
            except PerdureError as error:
                report.failed += 1
                report.wrong.append(f"a search by {mode} failed: {error}")
                continue
            report.answers += 1
            versions = {hit.version for hit in hits}
            texts = {hit.chunk_text.partition(",")[0] for hit in hits}
            if len(versions) != 1 or len(texts) != 1 or len(hits) != min(LIMIT, report.chunks):
                report.mixed += 1
                report.wrong.append(f"a search by {mode} gave {len(hits)} hits of {versions}, {texts}")
        await asyncio.sleep(0.005)


async def ingest(
    app: App, folder: Path, vectors: str, report: Report, chance: random.Random, kills: int
) -> None:
    """One version: its workers are killed, the last may finish."""
    report.versions += 1
    job = await app.ingest_text(
        text_of(report.versions, report.chunks), document_id=DOCUMENT, max_rescues=1000
    )
    for left in range(kills, -1, -1):
        begun, batches = count_batches(folder), -(-report.chunks // BATCH)
        worker = start_worker(folder, vectors)
        try:
            # At any moment: before the first batch, between two, at the publication.
            target = begun + chance.randint(0, max(1, 2 * batches // max(1, kills)))
            while left and count_batches(folder) < target and not (await _job(app, job.id)).finished:
                await asyncio.sleep(0.002)
            if left:
                await asyncio.sleep(chance.uniform(0, 0.2))
            else:
                await app.wait(job.id, timeout=300)
        finally:
            worker.kill()
            await asyncio.to_thread(worker.wait)
        report.kills += bool(left)
        if (now := await _job(app, job.id)).finished:
            if now.state is not JobState.COMPLETED:
                report.wrong.append(f"version {report.versions} is {now.state}: {now.failure}")
            return


async def _job(app: App, job_id: str) -> Any:
    return await app.jobs.get(job_id, tenant="default")


async def run(store: str, folder: Path, kills: int, chunks: int, seed: int) -> Report:
    """All of it, in an empty folder."""
    report, chance, begun = Report(store, chunks), random.Random(seed), time.monotonic()
    os.environ.setdefault(EMBED_LOG, os.devnull)  # the reader's own questions cost nothing
    async with (
        vectors_url(store, folder) as vectors,
        perdure.open(worker=False, **settings(folder, vectors)) as app,
    ):
        await ingest(app, folder, vectors, report, chance, 0)
        stop = asyncio.Event()
        reader = asyncio.create_task(read(app, report, stop))
        while report.kills < kills:
            await ingest(app, folder, vectors, report, chance, min(EACH, kills - report.kills))
        stop.set()
        await reader
        found = len(await app.vectors.chunks("default", "default", DOCUMENT, 2 * chunks))
        if found != chunks:
            report.wrong.append(f"{found} chunks in the end instead of {chunks}")
    embedded = sum(map(int, (folder / "embedded.log").read_text().split()))
    report.embedded_twice = embedded - chunks * report.versions
    report.allowed_twice = BATCH * report.kills
    if not 0 <= report.embedded_twice <= report.allowed_twice:
        report.wrong.append(f"{report.embedded_twice} texts were embedded twice")
    report.seconds = round(time.monotonic() - begun, 1)
    return report


def main() -> int:
    """Run it and print a JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres", "pinecone"), default="sqlite")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--chunks", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="perdure-kill-") as folder:
        report = asyncio.run(run(asked.store, Path(folder), asked.kills, asked.chunks, asked.seed))
    print(json.dumps({**asdict(report), "wrong": report.wrong[:10]}))
    return int(bool(report.wrong))


if __name__ == "__main__":
    sys.exit(main())
