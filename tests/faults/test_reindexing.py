"""A namespace moves to another model in SQLite, in PostgreSQL and in Pinecone, by workers that are killed, while somebody searches all the time."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

import perdure
from bench.ingest.kill_versions import BATCH, settings, start_worker, vectors_url
from bench.soak import EMBED_LOG, count_batches
from perdure.app import App
from perdure.domain.job import Job
from perdure.domain.state import JobState

pytestmark = [pytest.mark.server, pytest.mark.fault, pytest.mark.timeout(300)]

NEW = "python:bench.ingest.kill_versions:Other"
DOCUMENTS, PARAGRAPHS = 12, 80


class Reader:
    """Searches without pause; every answer must be full, and of one generation: the ids of its chunks tell which.

    Attributes:
        generations: the sets of chunk ids that were seen, in turn.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.generations: list[frozenset[str]] = []
        self.answers = 0

    async def read(self) -> None:
        while True:
            hits = await self._app.search("passage", mode="vector", limit=1000)
            ids = frozenset(hit.chunk_id for hit in hits)
            assert len(ids) == DOCUMENTS * PARAGRAPHS
            if not self.generations or self.generations[-1] != ids:
                self.generations.append(ids)
            self.answers += 1
            await asyncio.sleep(0.005)

    async def sees(self, generations: int, reading: asyncio.Task[None]) -> None:
        """Wait until it has seen so many, or has failed."""
        async with asyncio.timeout(120):
            while len(self.generations) < generations and not reading.done():
                await asyncio.sleep(0.02)


async def worked(
    app: App, folder: Path, vectors: str, jobs: list[Job], kills: int, chance: random.Random
) -> Job:
    """Bring jobs to their ends by workers of which some are killed after a batch or two, as long as there is work."""
    for left in range(kills, -1, -1):
        begun = count_batches(folder)
        worker = start_worker(folder, vectors, embedders=NEW)
        try:
            if left:
                async with asyncio.timeout(90):
                    while (
                        count_batches(folder) < begun + 2
                        and not (await app.jobs.get(jobs[-1].id, tenant=jobs[-1].tenant)).finished
                    ):
                        await asyncio.sleep(0.005)
                await asyncio.sleep(chance.uniform(0, 0.05))
            else:
                return [await app.wait(job.id, timeout=90) for job in jobs][-1]
        finally:
            worker.kill()
            await asyncio.to_thread(worker.wait)
    raise AssertionError("the last worker is not killed")


def embedded(folder: Path) -> int:
    return sum(map(int, (folder / "embedded.log").read_text().split()))


@pytest.mark.parametrize(("store", "kills"), [("sqlite", 4), ("postgres", 4), ("pinecone", 1)])
async def test_no_answer_fails_or_is_mixed_and_nothing_is_paid_for_twice(
    store: str, kills: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(EMBED_LOG, os.devnull)
    texts = [
        "\n\n".join(f"Document {d}, passage {n}: " + f"word{d * 97 + n} " * 15 for n in range(PARAGRAPHS))
        for d in range(DOCUMENTS)
    ]
    chunks = DOCUMENTS * PARAGRAPHS
    async with vectors_url(store, tmp_path) as vectors:
        told = settings(tmp_path, vectors) | {"embedders": NEW}
        async with perdure.open(worker=False, **told) as app:
            jobs = [await app.ingest_text(text, document_id=f"{n:02}") for n, text in enumerate(texts)]
            chance = random.Random(store)
            await worked(app, tmp_path, vectors, jobs, 0, chance)
            reader = Reader(app)
            reading = asyncio.create_task(reader.read())
            before = embedded(tmp_path)
            job = await app.reindex(embedder=NEW, max_rescues=100)
            job = await worked(app, tmp_path, vectors, [job], kills, chance)
            assert job.state is JobState.COMPLETED, job.failure
            assert chunks <= embedded(tmp_path) - before <= chunks + kills * BATCH
            await reader.sees(2, reading)
            before = embedded(tmp_path)
            back = await worked(app, tmp_path, vectors, [await app.reindex(rollback=True)], 0, chance)
            assert (back.state, embedded(tmp_path)) == (JobState.COMPLETED, before)
            await reader.sees(3, reading)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            first, second, third = reader.generations
            assert first == third
            assert not first & second
            assert reader.answers > 20
