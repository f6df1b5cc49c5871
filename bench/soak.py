"""Kill workers again and again, and prove that nothing was lost, doubled or paid for twice.

``python -m bench.soak --rounds 200`` ingests a folder of small and large documents each round with worker
processes of which one after the other is ended by SIGKILL at a random moment; the last one may finish. Then, from
the store: every job is completed, every document is there once with exactly the chunks that an undisturbed run gives,
and every text was embedded once, but for at most the batches that were under way when a worker died.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import perdure
from perdure.app import App, FileItem
from perdure.domain.job import Job
from perdure.domain.query import JobFilter
from perdure.domain.state import Event, JobState
from perdure.embedders.hashing import HashingEmbedder
from perdure.ports.embedder import Purpose

BATCH = 32
LEASE = "1"
PROVIDER_SECONDS = 0.1
EMBED_LOG = "SOAK_EMBED_LOG"


class LoggingEmbedder(HashingEmbedder):
    """Notes each batch before it is embedded: what a provider would put on the bill."""

    max_batch = BATCH
    seconds = PROVIDER_SECONDS

    def __init__(self) -> None:
        super().__init__()
        self._log = os.open(os.environ[EMBED_LOG], os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def embed(self, texts: Sequence[str], purpose: Purpose) -> npt.NDArray[np.float32]:
        os.write(self._log, (json.dumps(len(texts)) + "\n").encode())
        await asyncio.sleep(self.seconds)  # a provider takes its time, so that kills fall into it
        return await super().embed(texts, purpose)


@dataclass
class Round:
    """What one round showed; `wrong` is empty if all promises held."""

    seed: int
    kills: int
    rescues: int
    documents: int
    chunks: int
    embedded: int
    embedded_twice: int
    seconds: float
    wrong: list[str]


def write_documents(folder: Path, chance: random.Random, count: int = 12) -> list[Path]:
    """Small documents and one large one, of words that differ."""
    paths = []
    for number in range(count):
        words = chance.choices(WORDS, k=12_000 if number == 0 else chance.randint(50, 900))
        path = folder / f"document-{number:02}.txt"
        path.write_text(f"Document {number}. " + " ".join(words))
        paths.append(path)
    return paths


WORDS = ["".join(random.Random(n).choices("abcdefghijklmnopqrstuvwxyz", k=3 + n % 8)) for n in range(4000)]


def start_worker(folder: Path) -> subprocess.Popen[bytes]:
    """A worker in a process of its own."""
    with (folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "perdure", "worker"],
            cwd=folder,
            env=environment(folder),
            stdout=subprocess.DEVNULL,
            stderr=log,
        )


def environment(folder: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PERDURE_STORE": f"sqlite:///{folder / 'soak.db'}",
        "PERDURE_EMBEDDER": "python:bench.soak:LoggingEmbedder",
        "PERDURE_LEASE_SECONDS": LEASE,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
        EMBED_LOG: str(folder / "embedded.log"),
    }


async def run_round(folder: Path, seed: int, kills: int = 2) -> Round:
    """One round in an empty folder."""
    chance = random.Random(seed)
    paths = write_documents(folder, chance)
    begun = time.monotonic()
    async with perdure.open(f"sqlite:///{folder / 'soak.db'}", embedder="hashing", worker=False) as app:
        jobs = await app.ingest_many(FileItem(path=path, document_id=path.name) for path in paths)
        kills = sum([await kill_one(folder, app, chance) for _ in range(kills)])
        last = start_worker(folder)
        try:
            for job in jobs:
                await app.wait(job.id, timeout=60)
        finally:
            last.send_signal(signal.SIGTERM)
            await asyncio.to_thread(last.wait, 30)
        return await judge(app, folder, jobs, seed, kills, time.monotonic() - begun)


async def kill_one(folder: Path, app: App, chance: random.Random) -> bool:
    """Start a worker, and end it by SIGKILL in the middle of its work. False: it was done before."""
    worker = start_worker(folder)
    batches = count_batches(folder) + chance.randint(0, 3)
    try:
        while count_batches(folder) < batches or not await under_way(app):
            if not (await app.jobs.stats("default")).unfinished:
                return False
            await asyncio.sleep(0.005)
        await asyncio.sleep(chance.uniform(0.0, 1.2 * PROVIDER_SECONDS))
        return True
    finally:
        worker.kill()
        await asyncio.to_thread(worker.wait)


async def under_way(app: App) -> bool:
    return (await app.jobs.stats("default")).by_state[JobState.RUNNING] > 0


def count_batches(folder: Path) -> int:
    log = folder / "embedded.log"
    return log.read_bytes().count(b"\n") if log.exists() else 0


async def judge(app: App, folder: Path, jobs: Sequence[Job], seed: int, kills: int, seconds: float) -> Round:
    """Compare what is in the store with what must be there."""
    wrong: list[str] = []
    rescues = 0
    for job in jobs:
        now = await app.jobs.get(job.id, tenant="default")
        rescues += now.rescues
        if now.state is not JobState.COMPLETED:
            wrong.append(f"{now.document_id} is {now.state}: {now.failure}")
        ends = [entry.event for entry in await app.jobs.history(job.id, tenant="default")]
        if ends.count(Event.COMPLETED) != 1 or len(ends) != now.epoch + 1:
            wrong.append(f"{now.document_id} has epoch {now.epoch} but the history {ends}")
    found = await chunk_texts(app)
    expected = await undisturbed(folder)
    if found != expected:
        wrong.append(f"{len(found - expected)} chunks too many, {len(expected - found)} missing")
    counted = await app.jobs.count(JobFilter(tenant="default"))
    if counted != len(jobs) or (await app.jobs.stats("default")).total != len(jobs):
        wrong.append(f"{counted} jobs instead of {len(jobs)}")
    embedded = sum(map(int, (folder / "embedded.log").read_text().split()))
    twice = embedded - found.total()
    if twice > BATCH * kills:
        wrong.append(f"{twice} texts embedded twice, over a batch of {BATCH} for each of {kills} kills")
    return Round(seed, kills, rescues, len(jobs), found.total(), embedded, twice, round(seconds, 2), wrong)


async def chunk_texts(app: App) -> Counter[tuple[str, str]]:
    """(document and index, text) → how often it is there, asked page by page."""
    found: Counter[tuple[str, str]] = Counter()
    for document in await app.vectors.documents("default", "default", 1000):
        name, after = document.document.id, -1
        while page := await app.vectors.chunks("default", "default", name, 1000, after):
            found.update((f"{name}#{chunk.chunk_index}", chunk.chunk_text) for chunk in page)
            after = page[-1].chunk_index
    return found


async def undisturbed(folder: Path) -> Counter[tuple[str, str]]:
    """What a run gives that nobody kills."""
    async with perdure.open("memory:", embedder="hashing") as app:
        paths = sorted(folder.glob("*.txt"))
        jobs = await app.ingest_many(FileItem(path=path, document_id=path.name) for path in paths)
        for job in jobs:
            await app.wait(job.id, timeout=60)
        return await chunk_texts(app)


def main() -> int:
    """Run the rounds, print a JSON line for each and one for all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--kills", type=int, default=2, help="workers killed in each round")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    rounds = []
    for seed in range(asked.seed, asked.seed + asked.rounds):
        with tempfile.TemporaryDirectory(prefix="perdure-soak-") as folder:
            rounds.append(asyncio.run(run_round(Path(folder), seed, asked.kills)))
        print(json.dumps(asdict(rounds[-1])), flush=True)
    print(
        json.dumps(
            {
                "rounds": len(rounds),
                "kills": sum(each.kills for each in rounds),
                "rescues": sum(each.rescues for each in rounds),
                "chunks": sum(each.chunks for each in rounds),
                "embedded_twice": sum(each.embedded_twice for each in rounds),
                "most_embedded_twice_in_a_round": max(each.embedded_twice for each in rounds),
                "batch": BATCH,
                "rounds_with_something_wrong": sum(bool(each.wrong) for each in rounds),
            }
        )
    )
    return int(any(each.wrong for each in rounds))


if __name__ == "__main__":
    sys.exit(main())
